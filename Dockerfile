# Both binaries in one image without a shell: `docker run … api`, `docker run … relay`.

FROM rust:1-slim-bookworm AS build
WORKDIR /build
COPY . .
# The caches are the builder's and stay out of the image; what is kept is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target,sharing=locked \
    cargo build --locked --release --bin api --bin relay \
 && install -D -t /programs target/release/api target/release/relay

# C library, nothing else: no shell, no package manager. Runs as user 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /programs/ /usr/local/bin/
USER nonroot
# api serves on 8080 and its /metrics on 9091; the relay's /livez, /readyz and /metrics are on 9090.
ENV API_LISTEN=0.0.0.0:8080 API_METRICS_LISTEN=0.0.0.0:9091 RELAY_LISTEN=0.0.0.0:9090
EXPOSE 8080 9090 9091
# Other commands: api migrate, relay, relay migrate, relay status, relay replay, and healthcheck of both.
CMD ["api"]
