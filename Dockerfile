# syntax=docker/dockerfile:1
# Builds in one image; the final image has the program and its policies, and no build tools.
#
#   docker build -t cedargate .
#   docker run -p 8080:8080 -v cedargate:/var/lib/cedargate cedargate
#
# Each digest is that of the tag before it; update both together.
FROM rust:1.95.0-bookworm@sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1 AS build
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*

# The dependencies, in a layer that stays cached until one of them changes: the sources are empty.
COPY Cargo.toml Cargo.lock ./
COPY migrations/Cargo.toml migrations/
RUN mkdir -p src migrations/src benches/http \
    && touch src/lib.rs migrations/src/lib.rs \
    && for file in src/main.rs benches/engine.rs benches/http/main.rs; do echo 'fn main() {}' >"$file"; done \
    && cargo build --release --locked --bin cedargate

# The program. Cargo compares modification times, and those of a checkout may be older than the layer above.
COPY migrations/src migrations/src
COPY src src
RUN touch src/lib.rs src/main.rs migrations/src/lib.rs && cargo build --release --locked --bin cedargate

FROM debian:bookworm-slim@sha256:7b140f374b289a7c2befc338f42ebe6441b7ea838a042bbd5acbfca6ec875818
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 10001 -g 10001 -m 700 /var/lib/cedargate
COPY --from=build /src/target/release/cedargate /usr/local/bin/cedargate
COPY policies /usr/local/share/cedargate/policies
COPY schema /usr/local/share/cedargate/schema
ENV CEDARGATE_LISTEN=0.0.0.0:8080 \
    CEDARGATE_POLICIES=/usr/local/share/cedargate/policies \
    CEDARGATE_SCHEMA=/usr/local/share/cedargate/schema \
    CEDARGATE_LOG_FORMAT=json \
    MALLOC_MMAP_THRESHOLD_=131072
# A numeric user, so that Kubernetes can check `runAsNonRoot`.
USER 10001:10001
WORKDIR /var/lib/cedargate
VOLUME /var/lib/cedargate
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/cedargate", "health"]
ENTRYPOINT ["/usr/local/bin/cedargate"]
CMD ["serve"]
