//! Where both binaries get their memory from.
//!
//! An event is a dozen small allocations that one thread makes and another gives back, which the C library's allocator
//! does worst: a third of the relay's own time went there.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;
