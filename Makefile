# `make help` lists the targets. Everything runs in .venv, which is made from requirements.lock when needed.
.DEFAULT_GOAL := help
.SILENT:
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# Ansible needs UTF-8; the locale of a fresh machine is often POSIX.
export LC_ALL := C.UTF-8

N ?= 30

.PHONY: help venv demo demo-down mail check test lint unit integration browser molecule readmes bench bench-quarantine bench-monitor bench-backup chaos chaos-monitor kill-monitor chaos-quarantine chaos-backup chaos-restore attack lock clean

help: ## this list
	grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-16s %s\n", $$1, $$2}'

demo: venv ## start a fleet in local containers: lab, deployment, real mail, a table of its health
	python scripts/demo.py --mail $(N)

demo-down: ## remove the lab and nothing else (IMAGE=1: the base image, too)
	python3 lab/lab.py down $(if $(IMAGE),--image)

mail: venv ## send N=30 messages through the MXs and account for each (SPAM=0.3: share of it, STOP=mx2: stop it half way)
	python lab/lab.py mail $(N) $(if $(SPAM),--spam $(SPAM)) $(if $(STOP),--stop $(STOP))

check: venv ## show the fleet's health as a table (INVENTORY=inventory/NAME: another fleet)
	ansible-playbook $(if $(INVENTORY),--inventory $(INVENTORY)) playbooks/check_fleet.yml

test: venv ## linters, unit tests, Molecule scenarios (all but those in ON_DEMAND of scripts/run_tests.py); the last line counts
	python scripts/run_tests.py

lint: venv ## the linters alone: ruff, yamllint, mypy, ansible-lint
	python scripts/run_tests.py lint

unit: venv ## the unit tests alone; no containers needed
	python scripts/run_tests.py unit

integration: venv ## tests on real clocks and processes alone, minutes of waiting; no containers needed
	python scripts/run_tests.py integration

browser: venv ## the status page in Chromium, which is installed if it is missing; screenshots in build/screenshots/
	python scripts/run_tests.py browser

molecule: venv ## the Molecule scenarios alone (SCENARIO=mf_tree: that one)
	python scripts/run_tests.py $(or $(SCENARIO),molecule)

readmes: venv ## write the generated parts of the roles' READMEs: variables, modules
	python scripts/write_readmes.py

bench: venv ## measure checks, mf_health and a second site.yml, compared with their peers
	python bench/bench.py

bench-quarantine: venv ## measure import, queries and expiry of the quarantine at five million messages, about 20 minutes
	python bench/bench_quarantine.py

chaos: venv ## break real lab hosts in every known way and fail on any deviation, 20 minutes (ONLY='smtp: tarpit': that one)
	python -m chaos $(if $(ONLY),--only '$(ONLY)')

chaos-backup: venv ## break control and offsite during their backups, 20 minutes (needs control and offsite of lab 4 only)
	python -m chaos --only '^backup'

attack: venv ## attack mx1 of a running, deployed lab while good mail goes on, 5 minutes (SECONDS=60, LAB=4)
	MF_LAB=$(or $(LAB),$(MF_LAB),3) python -m chaos.attack --seconds $(or $(SECONDS),300)

chaos-restore: venv ## destroy and restore control twice under mail traffic; each message must be there once, 10 minutes (N=1000)
	python -m chaos.restore $(if $(filter command line,$(origin N)),--count $(N))

chaos-monitor: venv ## break the fleet and check the monitor's messages and their times, 40 minutes (ONLY=flap: that one)
	python -m chaos.monitor $(if $(ONLY),--only '$(ONLY)')

kill-monitor: venv ## kill -9 the monitor 50 times at random while services break; each outage must be one incident, notified once, 4 minutes
	MF_KILLS=$(or $(KILLS),50) pytest -q tests/integration/test_monitor_engine.py -k killed

chaos-quarantine: venv ## break the way to the quarantine under mail traffic; each message must be there once, 18 minutes (N=5000 ONLY='disk full')
	python -m chaos.quarantine $(if $(filter command line,$(origin N)),--count $(N)) $(if $(ONLY),--only '$(ONLY)')

bench-backup: venv ## measure the second daily archive against the first, and imports during dumps (a deployed lab: MF_LAB=4)
	python bench/bench_backup.py

bench-monitor: venv ## measure the monitor's probes against blackbox_exporter, 1,000 hosts each minute, dead hosts; its page
	python bench/bench_page.py
	python bench/bench_monitor.py

venv: ## the locked Python environment in .venv
	scripts/make_venv.sh

lock: ## write requirements.lock again from requirements.in (newer versions)
	scripts/make_lock.sh

clean: ## remove .venv, caches and logs (not the lab: demo-down)
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .ansible
