# docker build --tag resonate . && docker run --publish 8001:8001 --volume resonate:/data resonate
#
# The image holds the program, the three libraries it needs, certificates and an empty /data; no shell.
# docs/deployment.md says how to run it.

FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /source
# No backtraces with lines in the image; panics still say where they were.
ENV CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_STRIP=symbols
# The dependencies, in a layer that stays until they change.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked --bin resonate
COPY build.rs ./
COPY migrations migrations
COPY src src
# Newer than what was built of the empty sources.
RUN touch src/lib.rs src/main.rs && cargo build --release --locked --bin resonate
# What the image is made of. Its packages are listed where scanners look for them. Without libraries cp fails.
# hadolint ignore=DL4006
RUN install -D --target-directory /image/usr/local/bin target/release/resonate \
    && ldd target/release/resonate | grep --only-matching '/[^ ]*' \
        | xargs cp --parents --dereference --target-directory /image \
    && install -D --mode 644 --target-directory /image/etc/ssl/certs /etc/ssl/certs/ca-certificates.crt \
    && mkdir --parents /image/var/lib/dpkg/status.d /data \
    && for package in libc6 libgcc-s1 ca-certificates; do \
        dpkg --status "$package" > "/image/var/lib/dpkg/status.d/$package"; \
    done

FROM scratch
COPY --from=build /image /
COPY --from=build --chown=10001:10001 /data /data
USER 10001:10001
# The working directory holds resonate.db, and resonate.toml if there is one.
WORKDIR /data
VOLUME /data
EXPOSE 8001 9090
STOPSIGNAL SIGTERM
# Asks $RESONATE_URL, which is http://localhost:8001 unless the port or the certificate is another.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/usr/local/bin/resonate", "health"]
ENTRYPOINT ["/usr/local/bin/resonate"]
CMD ["serve"]
