# Short commands for those who change poolscope: CONTRIBUTING.md. .ci/dev makes the environment when it is missing.

# The seed of the order of the unit tests: `make unit ORDER=123456` repeats one.
ORDER := $(shell od -An -N3 -tu4 /dev/urandom | tr -d ' ')

.PHONY: help setup lint unit test docs release-check

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 8

setup: ## makes the development environment and installs the git hooks
	.ci/dev python --version
	.ci/dev pre-commit install

lint: ## ruff, ruff format, mypy, layers
	.ci/dev ruff check .
	.ci/dev ruff format --check .
	.ci/dev mypy
	.ci/dev lint-imports

unit: ## the unit tests in random order, with coverage and its floor
	.ci/dev coverage run -m pytest -q -m "not slow" --random-order-bucket=global --random-order-seed=$(ORDER) tests/unit
	.ci/dev coverage report

test: ## all tests on every interpreter
	tests/run

docs: ## the site in build/docs; a warning is an error
	.ci/dev sphinx-build -q -W --keep-going -d build/doctrees docs build/docs

release-check: ## builds wheel and sdist, and tries them in an empty environment; publishes nothing
	.ci/release-check
