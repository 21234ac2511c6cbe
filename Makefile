# Everything that one does with this repository. `make` alone lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The stamp of a build. The date is the commit's, so that the same commit gives the same binary on every day; a tree
# without git, or without a commit, is "dev". Without --abbrev git shortens a commit's name differently in each clone.
VERSION ?= $(shell git describe --tags --always --dirty --abbrev=12 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --quiet --verify --short=12 HEAD 2>/dev/null || echo unknown)
DATE    ?= $(shell git log -1 --format=%cI 2>/dev/null || date -u +%Y-%m-%dT%H:%M:%SZ)
DATE := $(DATE) # once, for whoever has no git
export VERSION COMMIT DATE

BUILD = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "$(LDFLAGS)"
LDFLAGS = -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)
IMAGE ?= ops-worker:$(VERSION)
SIM_IMAGE ?= platform-sim:$(VERSION)

# More arguments of `go test`, such as TESTFLAGS='-run TestLease -count=10'.
TESTFLAGS ?=
# What runs the tests, and which packages `test` and `test-faults` run: .ci/run sets them.
GOTEST ?= go test
PACKAGES ?= ./...
FAULTS ?= ./internal/faulttest

# sqlc, staticcheck, gotestsum and cyclonedx-gomod have a module of their own, so that what they need is no business of the worker's go.mod.
TOOL = go tool -modfile=tools/go.mod
COMPOSE = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

.PHONY: help
help: ## list the targets
	@if [ -t 1 ]; then bold=$$'\033[1m' plain=$$'\033[0m'; fi; \
	awk -F ':.*## ' -v bold="$${bold:-}" -v plain="$${plain:-}" \
	  '/^[a-z-]+:.*## / { printf "  %s%-13s%s %s\n", bold, $$1, plain, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/ops-worker, static and stamped with its version
	$(BUILD) -o bin/ops-worker ./cmd/ops-worker

# From the binary, which names exactly the modules that are linked. The tool writes its own checksum into the file: built
# like this, it has the same one in every folder.
SBOM = GOFLAGS="-trimpath -buildvcs=false" CGO_ENABLED=0 $(TOOL) cyclonedx-gomod bin -json -noserial -notimestamp -std -version $(VERSION)
# Unpacked in /usr/local, the manual pages and completions are where man and the shells look.
SHARE = dist/share
COMPLETIONS = bash-completion/completions/ops-worker zsh/site-functions/_ops-worker fish/vendor_completions.d/ops-worker.fish

# What is published depends on the commit, its tags and the Go release, and not on the builder's settings of Go.
dist: export GOFLAGS =
dist: export GOEXPERIMENT =
dist: export GOFIPS140 = off
dist: export GOAMD64 = v1
dist: export GOARM64 = v8.0

.PHONY: dist
dist: build ## build dist/: the worker for amd64 and arm64, their SBOMs, manual pages, shell completions, checksums
	@new=$$(git ls-files --others --exclude-standard -- cmd collectors db internal migrations sql 2>/dev/null || true); \
	[ -z "$$new" ] || { echo "make dist: git does not know these files, so no version names what is built of them:" $$new >&2; exit 1; }
	rm -rf dist
	for arch in amd64 arm64; do \
	  GOOS=linux GOARCH=$$arch $(BUILD) -o dist/ops-worker-linux-$$arch ./cmd/ops-worker; \
	  $(SBOM) -output dist/ops-worker-linux-$$arch.cdx.json dist/ops-worker-linux-$$arch; \
	done
	install -D --mode=644 --target-directory=$(SHARE)/man/man1 docs/man/*.1
	for file in $(COMPLETIONS); do \
	  mkdir -p "$(SHARE)/$${file%/*}"; shell=$${file%%/*}; \
	  bin/ops-worker completion "$${shell%-completion}" >"$(SHARE)/$$file"; \
	done
	cd dist && find share -type f | LC_ALL=C sort \
	  | tar --create --format=ustar --files-from=- --mtime=$(DATE) --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
	  | gzip --no-name >ops-worker-share.tar.gz
	rm -r $(SHARE)
	cd dist && export LC_ALL=C && sha256sum ops-worker-* >SHA256SUMS

.PHONY: run
run: ## run the worker: on DATABASE_URL, or else with an embedded PostgreSQL and a simulated platform
	@echo "make run: compiling the worker and the simulated platform, which takes some minutes the first time"
	@$(MAKE) --no-print-directory build
	@go build -o bin/demo ./cmd/demo
	@[ -n "$${DATABASE_URL:-}" ] || scripts/setup-postgres.sh
	@exec bin/demo bin/ops-worker

.PHONY: generate
generate: ## write db/*.sql.go from sql/ and migrations/
	$(TOOL) sqlc generate

.PHONY: sqlc-diff
sqlc-diff: ## fail if db/ is not what generate would write
	$(TOOL) sqlc diff

.PHONY: sqlc-vet
sqlc-vet: ## prepare every query on a migrated database
	@scripts/setup-postgres.sh
	SQLC_VET=1 go test -count=1 -run '^TestEveryQueryIsPrepared$$' ./db

.PHONY: lint
lint: gofmt vet staticcheck tidy ## gofmt, go vet, staticcheck, and whether the go.mod files are tidy

.PHONY: gofmt vet staticcheck tidy
gofmt:
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt -w is needed:" $$unformatted >&2; exit 1; }
# With their tags, so that the files behind them are looked at too.
vet:
	go vet -tags cutover,dist ./...
	go -C deploy vet ./...
	go -C internal/notify/alertmanagertest vet ./...
staticcheck:
	$(TOOL) staticcheck -tags cutover,dist ./...
tidy:
	go mod tidy -diff
	go -C tools mod tidy -diff
	go -C deploy mod tidy -diff
	go -C internal/notify/alertmanagertest mod tidy -diff

.PHONY: test
test: ## install what the tests need if it is missing (root and apt), then run them all
	@scripts/setup-postgres.sh --tests
	$(GOTEST) -race $(TESTFLAGS) $(PACKAGES)
	cd deploy && $(GOTEST) -race $(TESTFLAGS) ./...
	cd internal/notify/alertmanagertest && $(GOTEST) -race $(TESTFLAGS) ./...

.PHONY: test-unit
test-unit: ## run the tests that need neither a database nor Docker
	go test -race -short $(TESTFLAGS) ./...
	go -C deploy test -race -short $(TESTFLAGS) ./...
	go -C internal/notify/alertmanagertest test -race $(TESTFLAGS) ./...

# The packages whose tests need a database; the fault suite breaks a server of the machine's own.
DATABASE_PACKAGES = $(shell go list -f '{{range .TestImports}}{{$$.ImportPath}} {{.}}{{"\n"}}{{end}}{{range .XTestImports}}{{$$.ImportPath}} {{.}}{{"\n"}}{{end}}' ./... \
  | awk '$$2 == "ops_worker/internal/pgtest" { print $$1 }' | grep -v /faulttest | sort -u)

.PHONY: test-database
test-database: ## run the tests that need a database alone, say with PGTEST_IMAGE=postgres:18-trixie
	$(GOTEST) -race -count=1 $(TESTFLAGS) $(DATABASE_PACKAGES)

.PHONY: test-faults
test-faults: ## run the fault suite alone: killed workers, restarted databases, failing networks (part of test)
	@scripts/setup-postgres.sh --tests
	$(GOTEST) -race -count=1 -v -timeout 30m $(TESTFLAGS) $(FAULTS)

# Behind a tag, since it takes minutes and the names of the platform's containers for itself.
.PHONY: test-cutover
test-cutover: image image-sim ## run every command of docs/cut-over.md on real containers, for each release of the platform
	OPS_WORKER_IMAGE=$(IMAGE) PLATFORM_SIM_IMAGE=$(SIM_IMAGE) \
	  $(GOTEST) -race -count=1 -v -timeout 20m -tags cutover $(TESTFLAGS) -run '^TestCutOver$$' ./internal/cutovertest

# With the processor and the garbage collection of a worker that runs. BENCH_PACE is the pause before each cycle.
BENCH_PACE ?= 1s

.PHONY: bench
bench: ## run the benchmarks, the cycles at a pace (BENCH_PACE)
	@scripts/setup-postgres.sh
	GOGC=40 BENCH_PACE=$(BENCH_PACE) go test -run '^$$' -cpu 1 -bench 'BareCycle|MetricsCycle|HealthCycle' -benchtime 20x -benchmem $(TESTFLAGS) ./collectors
	GOGC=40 go test -run '^$$' -cpu 1 -bench . -skip 'BareCycle|MetricsCycle|HealthCycle' -benchtime 10x -benchmem $(TESTFLAGS) ./...

# linux/amd64 or linux/arm64; without it an image is for this machine. BuildKit would set TARGETARCH itself.
PLATFORM ?=
FOR_PLATFORM = $(if $(filter-out linux/amd64 linux/arm64,$(PLATFORM)),$(error PLATFORM must be linux/amd64 or linux/arm64))$(if $(PLATFORM),--platform $(PLATFORM) --build-arg TARGETARCH=$(word 2,$(subst /, ,$(PLATFORM))))

.PHONY: image
image: ## build the container image, with PLATFORM=linux/arm64 for such a machine
	docker build --target ops-worker --tag $(IMAGE) $(FOR_PLATFORM) \
	  --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) --build-arg DATE=$(DATE) .

.PHONY: image-sim
image-sim: ## build the container image of the simulated services
	docker build --target platform-sim --tag $(SIM_IMAGE) $(FOR_PLATFORM) .

.PHONY: up
up: ## start PostgreSQL, the worker, the simulated services and a seeded fleet in containers
	@[ -z "$${DATABASE_URL:-}" ] || echo "make up: DATABASE_URL is set: the worker uses that database. For the demonstration: env -u DATABASE_URL make up"
	$(COMPOSE) up --detach --build
	$(COMPOSE) ps
	@echo
	@echo "What to try:"
	@echo "  $(COMPOSE) exec ops-worker /ops-worker status --watch"
	@echo "  $(COMPOSE) exec ops-worker /ops-worker doctor"
	@echo "  $(COMPOSE) exec postgres psql -U iot -P pager=off iotcloud -c 'SELECT * FROM service_health' -c 'SELECT * FROM system_metrics_latest'"
	@echo "  $(COMPOSE) stop iot-evaluator   # the next health check, within a minute, opens an alert"
	@echo "  $(COMPOSE) start iot-evaluator  # the next one closes it"
	@echo "  $(COMPOSE) logs --follow ops-worker"
	@echo "  make down"

.PHONY: down
down: ## stop what `up` started, and remove its data
	$(COMPOSE) down --volumes

.PHONY: clean
clean: ## remove what was built, and the images without a name that builds leave behind
	rm -rf bin dist .ci/log
	@! docker info >/dev/null 2>&1 || \
	  docker image prune --force --filter label=org.opencontainers.image.title=ops-worker-build

# So many inputs are tried of each, half a minute; more with FUZZTIME=2000000x. Not a
# duration: go test may call its end a failure (https://go.dev/issue/75804).
FUZZTIME ?= 300000x

.PHONY: fuzz
fuzz: ## try settings and passwords that nobody thought of
	go test ./internal/config -run '^$$' -fuzz '^FuzzPassword$$' -fuzztime $(FUZZTIME)
	go test ./internal/config -run '^$$' -fuzz '^FuzzSetting$$' -fuzztime $(FUZZTIME)
