//! The migrations are compiled in, so a change of theirs is a change of the program.
#![expect(clippy::disallowed_macros, reason = "cargo reads the standard output of build scripts")]

fn main() {
    println!("cargo:rerun-if-changed=../migrations/app");
}
