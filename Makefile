# `make help` tells what can be made. Recipes are short: what is done lies in the programs they call.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO_TARGET_DIR ?= target
RELEASE := $(CARGO_TARGET_DIR)/release
PROVISION := $(RELEASE)/provision
IMAGE := target/images/holdfast-single.qcow2
BAKE := --image images/single --holdfast $(RELEASE)/holdfast

##@ Two commands

.PHONY: appliance
appliance: deps-bake etcd image ## Bake the single-node image, boot it, put and get a key through it
	@$(PROVISION) image start $(IMAGE)

.PHONY: test
test: deps etcd clients fmt clippy binaries test-code image test-bootstrap test-image ## Everything: lints, all tests, and the baked image's own

##@ The appliance and its image

.PHONY: appliance-stop
appliance-stop: ## Stop the appliance; its disk stays
	@if [ -x $(PROVISION) ]; then $(PROVISION) image stop; else echo "nothing was built, so no appliance runs"; fi

.PHONY: appliance-remove
appliance-remove: appliance-stop ## Stop the appliance and remove its disk with all keys
	rm -rf target/appliance

.PHONY: image
image: release ## Bake the single-node image: target/images/holdfast-single.qcow2
	@$(PROVISION) image build $(BAKE)

.PHONY: image-base
image-base: release ## Make only the base system of the image
	@$(PROVISION) image base --image images/single

.PHONY: image-inputs
image-inputs: release ## Lay ready what `packer build packer/image` carries into the guest
	@$(PROVISION) image inputs $(BAKE)

.PHONY: test-image
test-image: ## Boot the baked image and prove it; reports in target/image-test
	@$(PROVISION) image test $(IMAGE)

.PHONY: test-bootstrap
test-bootstrap: release ## Bootstrap a fresh Debian in a container with systemd, twice, and break it
	provision/tests/bootstrap-in-container $(PROVISION) $(RELEASE)/holdfast target/container

##@ The code

.PHONY: release
release: ## Build both programs for release
	cargo build --release -p holdfast -p provision

.PHONY: binaries
binaries:
	cargo build --workspace --bins

.PHONY: fmt
fmt: ## Check the formatting of the code
	cargo fmt --all --check

.PHONY: clippy
clippy: ## Check the code with clippy; a warning is an error
	cargo clippy --workspace --all-targets -- -D warnings

.PHONY: test-code
test-code: ## All tests of the code: unit, property, crash, interchange with real etcd, golden files
	cargo test --workspace

.PHONY: fuzz
fuzz: ## Give every decoder bytes that nobody meant, for FUZZ_SECONDS (default 600)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} FUZZ_SEED=$${FUZZ_SEED:-$$RANDOM} cargo test --release -p holdfast --test fuzz

.PHONY: soak
soak: ## Lose power at every call of the disk, seed after seed, for SOAK_SECONDS (default 3600)
	SOAK_SECONDS=$${SOAK_SECONDS:-3600} SOAK_SEED=$${SOAK_SEED:-$$RANDOM} \
	    cargo test --release -p storage --test crash -- --nocapture a_crash_at_any_call
	SOAK_SECONDS=$${SOAK_SECONDS:-3600} SOAK_SEED=$${SOAK_SEED:-$$RANDOM} \
	    cargo test --release -p holdfast-tests --test sim -- --nocapture promises_hold

.PHONY: bench
bench: etcd release ## Measure against real etcd on this machine
	cargo run --release -p holdfast-tests --bin bench

.PHONY: run
run: ## Start a development member with etcd's defaults
	cargo run --release -p holdfast

##@ What is needed

.PHONY: deps
deps: ## Install the Debian packages that building, baking and testing need
	@tests/tools/install-packages test

.PHONY: deps-bake
deps-bake:
	@tests/tools/install-packages bake

.PHONY: etcd
etcd: ## Fetch real etcd and etcdctl for tests and comparisons: target/etcd
	@tests/tools/install-etcd

.PHONY: clients
clients: ## Install the clients that tests run, from PyPI and npm: target/clients
	@tests/tools/install-clients

.PHONY: help
help: ## This list
	@awk 'BEGIN { FS = ":.*## " } \
	    /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
