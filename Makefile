# make            lists the targets
.DEFAULT_GOAL := help
PY := .venv/bin/python

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## install into .venv and .venv-vllm, both inside this folder
	@scripts/setup --vllm

demo: ## train the same task twice, budgeted and GRPO, on real servers; prints a table and writes a report
	@scripts/setup --vllm
	@$(PY) -m trainer demo

test: ## the whole test suite: real SQLite, real PostgreSQL, one real vLLM server
	@scripts/setup --vllm
	@$(PY) -m pytest -n 2 --dist loadgroup -m "not alone" --ignore tests/integrations
	@$(PY) -m pytest -m alone --ignore tests/integrations

test-integrations: ## other trainers with our budgets, each in an environment of its own: TRL on real servers, verl, SkyRL, tinker
	@scripts/setup --vllm --trl --hooks
	@$(PY) -m pytest -n 2 --dist loadgroup tests/integrations

soak: ## every harness for 30 minutes: simulation, state machine, killed processes, contract, load, stages (MINUTES=, ONLY=)
	@scripts/setup --vllm
	@$(PY) -m tests.soak --minutes $(or $(MINUTES),30) $(if $(ONLY),--only $(ONLY))

mutations: ## take each guarantee's mechanism out and see its tests fail; writes the table of docs/guarantees.md
	@scripts/setup
	@$(PY) -m tests.mutations --write

tools: ## fetch what some tests look for and skip without: Prometheus, Helm, Chromium (into .cache/tools, or by apt)
	@for tool in scripts/tools/*; do [ ! -x $$tool ] || $$tool; done

compose-smoke: ## build the images, start the stack in containers, use it, restart its parts (Docker or podman)
	@scripts/setup
	@scripts/compose-smoke

lint: ## style, types, generated files
	@scripts/setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@$(PY) scripts/unasync.py --check
	@$(PY) -m scripts.chart --check

openapi: ## write docs/api/*.json anew from the services
	@$(PY) -m services.allocator openapi > docs/api/allocator.json
	@$(PY) -m services.prior_api openapi > docs/api/prior.json

study: ## the comparison of methods in training, hours on two cores; goes on where it was stopped (docs/learning-study.md)
	@scripts/setup
	@$(PY) -m benchmarks.learning tune
	@$(PY) -m benchmarks.learning run
	@$(PY) -m benchmarks.learning report

bench: ## allocator, learner, utilisation; estimators, decisions, plans, budgets and prior on DATA=path/to/outcomes
	@$(PY) -m benchmarks.allocator
	@$(PY) -m benchmarks.learner
	@$(PY) -m benchmarks.utilisation
	@$(PY) -m benchmarks.budgets --data $(DATA)
	@$(PY) -m benchmarks.decisions
	@$(PY) -m benchmarks.estimators --data $(DATA)
	@$(PY) -m benchmarks.planning --data $(DATA)
	@$(PY) -m benchmarks.prior --data $(DATA)

clean: ## remove what the targets above made, environments included
	rm -rf .venv .venv-vllm .venv-trl .venv-hooks .cache runs .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help setup demo test test-integrations tools compose-smoke soak mutations lint openapi study bench clean
