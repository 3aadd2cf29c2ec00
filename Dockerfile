# The binary `chasqui`, for `serve` and every other command but `up`: that one starts servers of its own, which this image
# does not have; use compose.yaml. Building it needs BuildKit, which is Docker's default.
#
#   docker build --tag chasqui .
#   docker run --rm chasqui config

# The toolchain that .ci/run was last run with. Both stages are of the same Debian release, because the binary is linked with
# that release's C library.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# The caches stay with the builder, so that a changed line does not build all dependencies again.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package chasqui && cp target/release/chasqui /usr/local/bin/ && mkdir /spool

FROM debian:12.14-slim
# Certificate authorities, for TLS to NATS, mail relays and providers. They are copied, so that nothing is installed here.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /usr/local/bin/chasqui /usr/local/bin/chasqui
# Chasqui's licence, and those of the work of others that the image contains.
COPY LICENSE NOTICES /usr/share/doc/chasqui/
# The user 65532 exists in no file, and owns one directory: Chasqui writes nothing but the gateway's spool.
COPY --from=build --chown=65532:65532 /spool /var/lib/chasqui
ENV CHASQUI_ENGAGEMENT__SPOOL_DIR=/var/lib/chasqui/gateway
USER 65532:65532
ENTRYPOINT ["chasqui"]
CMD ["serve"]
