# Two images: the worker (the last stage, and so the default) and, with --target platform-sim, the simulated services.
# Plain Dockerfile syntax throughout: it builds with BuildKit and without.
#
# Go compiles for the image's machine on the machine that builds. BuildKit sets BUILDPLATFORM and TARGETARCH. Without BuildKit
# the build stages are for Linux on this machine, and `make image` sets TARGETARCH. That builder finds an image of another
# machine only where FROM names it: so each build stage begins with its one COPY, and a stage that is copied from has its FROM.
FROM --platform=${BUILDPLATFORM:-linux} golang:1.26-bookworm AS modules
# Modules first: they change seldom, and so stay in the cache when the source changes.
COPY go.mod go.sum /src/
# Without BuildKit this stage is kept as an image without a name; the label tells whose.
LABEL org.opencontainers.image.title="ops-worker-build"
WORKDIR /src
ENV CGO_ENABLED=0
RUN go mod download

FROM --platform=${BUILDPLATFORM:-linux} modules AS source
COPY . .

# The services before the worker: without BuildKit every stage up to the wanted one is built, and what they compile the
# worker finds compiled.
FROM --platform=${BUILDPLATFORM:-linux} source AS platform-sim-build
ARG TARGETARCH
RUN GOARCH=${TARGETARCH} go build -trimpath -buildvcs=false -ldflags "-s -w" -o /out/platform-sim ./cmd/platform-sim

FROM --platform=${BUILDPLATFORM:-linux} platform-sim-build AS platform-sim-built

FROM scratch AS platform-sim
COPY --from=platform-sim-built /out/platform-sim /platform-sim
LABEL org.opencontainers.image.title="platform-sim" \
      org.opencontainers.image.description="Simulated services of the IoT platform, for trying ops-worker"
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 \
    CMD ["/platform-sim", "--check", "http://127.0.0.1:8080/health"]
ENTRYPOINT ["/platform-sim"]
CMD ["ingest"]

FROM --platform=${BUILDPLATFORM:-linux} platform-sim-build AS ops-worker-build
ARG TARGETARCH
ARG VERSION=dev
ARG COMMIT=unknown
ARG DATE=unknown
# state/ and spool/ are what the worker may write to; a scratch stage cannot make a directory by itself.
RUN GOARCH=${TARGETARCH} go build -trimpath -buildvcs=false -o /out/ops-worker \
      -ldflags "-s -w -X main.version=${VERSION} -X main.commit=${COMMIT} -X main.date=${DATE}" \
      ./cmd/ops-worker \
 && mkdir /out/state /out/spool

FROM --platform=${BUILDPLATFORM:-linux} ops-worker-build AS ops-worker-built

FROM scratch AS ops-worker
# First what differs by machine: without BuildKit the first instruction decides for which one the image is, also from the cache.
COPY --from=ops-worker-built /out/ops-worker /ops-worker
COPY --from=ops-worker-built /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=ops-worker-built --chown=65532:65532 /out/state /run/ops-worker
# For SPOOL_DIR, where it is set: a volume mounted here takes over the owner.
COPY --from=ops-worker-built --chown=65532:65532 /out/spool /var/lib/ops-worker
ARG VERSION=dev
ARG COMMIT=unknown
ARG DATE=unknown
LABEL org.opencontainers.image.title="ops-worker" \
      org.opencontainers.image.description="Health monitor and metrics collector of the IoT platform" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.created="${DATE}" \
      ops-worker.completion="docker run --rm IMAGE completion bash, or zsh, fish, powershell: prints the shell's completion script"
# The health check reads what the worker writes there. With a read-only root file system it must be a tmpfs.
ENV STATE_DIR=/run/ops-worker
USER 65532:65532
# It reads a file and asks nobody, so an interval this short costs nothing.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=2 \
    CMD ["/ops-worker", "healthcheck"]
ENTRYPOINT ["/ops-worker"]
CMD ["run"]
