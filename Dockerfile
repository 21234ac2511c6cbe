# Two images: the worker (the last stage, and so the default) and, with --target platform-sim, the simulated services.
# Plain Dockerfile syntax throughout: it builds with BuildKit and without.
FROM golang:1.26-bookworm AS source
# Without BuildKit this stage is kept as an image without a name; the label tells whose.
LABEL org.opencontainers.image.title="ops-worker-build"
WORKDIR /src
ENV CGO_ENABLED=0

# Modules first: they change seldom, and so stay in the cache when the source changes.
COPY go.mod go.sum ./
RUN go mod download

COPY . .

# The services before the worker: without BuildKit every stage up to the wanted one is built, and what they compile the
# worker finds compiled.
FROM source AS platform-sim-build
RUN go build -trimpath -buildvcs=false -ldflags "-s -w" -o /out/platform-sim ./cmd/platform-sim

FROM scratch AS platform-sim
LABEL org.opencontainers.image.title="platform-sim" \
      org.opencontainers.image.description="Simulated services of the IoT platform, for trying ops-worker"
COPY --from=platform-sim-build /out/platform-sim /platform-sim
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 \
    CMD ["/platform-sim", "--check", "http://127.0.0.1:8080/health"]
ENTRYPOINT ["/platform-sim"]
CMD ["ingest"]

FROM platform-sim-build AS ops-worker-build
ARG VERSION=dev
ARG COMMIT=unknown
ARG DATE=unknown
# state/ and spool/ are what the worker may write to; a scratch stage cannot make a directory by itself.
RUN go build -trimpath -buildvcs=false -o /out/ops-worker \
      -ldflags "-s -w -X main.version=${VERSION} -X main.commit=${COMMIT} -X main.date=${DATE}" \
      ./cmd/ops-worker \
 && mkdir /out/state /out/spool

FROM scratch AS ops-worker
ARG VERSION=dev
ARG COMMIT=unknown
ARG DATE=unknown
LABEL org.opencontainers.image.title="ops-worker" \
      org.opencontainers.image.description="Health monitor and metrics collector of the IoT platform" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.created="${DATE}"
COPY --from=ops-worker-build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=ops-worker-build --chown=65532:65532 /out/state /run/ops-worker
# For SPOOL_DIR, where it is set: a volume mounted here takes over the owner.
COPY --from=ops-worker-build --chown=65532:65532 /out/spool /var/lib/ops-worker
COPY --from=ops-worker-build /out/ops-worker /ops-worker
# The health check reads what the worker writes there. With a read-only root file system it must be a tmpfs.
ENV STATE_DIR=/run/ops-worker
USER 65532:65532
# It reads a file and asks nobody, so an interval this short costs nothing.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=2 \
    CMD ["/ops-worker", "healthcheck"]
ENTRYPOINT ["/ops-worker"]
CMD ["run"]
