# The binary `chasqui`, for `serve` and every command beside it. Not for `up`, `demo` and `bench`: those start servers
# of their own, which this image does not have; use compose.yaml. Needs BuildKit, which is Docker's default.
#
#   docker build --tag chasqui .
#   docker run --rm chasqui config

# The toolchain that CI uses; the same Debian release below, so that the C library is the same.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# The caches stay with the builder: a changed line does not build all dependencies again.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package chasqui && cp target/release/chasqui /usr/local/bin/ && mkdir /spool

FROM debian:12.14-slim
# Certificate authorities for TLS to NATS, mail relays and providers. Copied, so that nothing is installed here.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /usr/local/bin/chasqui /usr/local/bin/chasqui
# Nobody in particular: all that Chasqui writes is the gateway's spool.
COPY --from=build --chown=65532:65532 /spool /var/lib/chasqui
ENV CHASQUI_ENGAGEMENT__SPOOL_DIR=/var/lib/chasqui/gateway
USER 65532:65532
ENTRYPOINT ["chasqui"]
CMD ["serve"]
