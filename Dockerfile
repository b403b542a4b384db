# docker build --tag resonate . && docker run --publish 8001:8001 --volume resonate:/data resonate

FROM rust:1.95-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
# Certificates, for pushes to https:// workers.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /data --create-home resonate
COPY --from=build /source/target/release/resonate /usr/local/bin/resonate
USER resonate
# The working directory holds resonate.db, and resonate.toml if there is one.
WORKDIR /data
VOLUME /data
EXPOSE 8001 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["resonate"]
CMD ["serve"]
