# Built in one image, run in another that has the program, its policies and nothing to build with.
#
#   docker build -t cedargate .
#   docker run -p 8080:8080 -v cedargate:/var/lib/cedargate cedargate
FROM rust:1.95-bookworm AS build
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
COPY Cargo.toml Cargo.lock ./
COPY migrations migrations
COPY benches benches
COPY src src
RUN cargo build --release --locked --bin cedargate

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/cedargate --create-home --shell /usr/sbin/nologin cedargate
COPY --from=build /src/target/release/cedargate /usr/local/bin/cedargate
COPY policies /usr/local/share/cedargate/policies
COPY schema /usr/local/share/cedargate/schema
ENV CEDARGATE_LISTEN=0.0.0.0:8080 \
    CEDARGATE_POLICIES=/usr/local/share/cedargate/policies \
    CEDARGATE_SCHEMA=/usr/local/share/cedargate/schema \
    CEDARGATE_LOG_FORMAT=json \
    MALLOC_MMAP_THRESHOLD_=131072
USER cedargate
WORKDIR /var/lib/cedargate
VOLUME /var/lib/cedargate
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/cedargate"]
CMD ["serve"]
