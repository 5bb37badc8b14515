# How is everything run? Every target only calls the tramontane command or a tool.
PYTHON ?= python3
MODEL ?= models/stdlib-5m
QUANT ?= int8
TARGET ?= ort
SHARED ?= ../shared
OUT ?= artifacts/$(notdir $(patsubst %/,%,$(MODEL)))-$(QUANT)-$(TARGET)$(if $(WINDOW),-w$(WINDOW))$(if $(BLOCK),-b$(BLOCK))$(if $(CACHE),-$(CACHE))$(if $(KV),-kv-$(KV))
GEOMETRY ?= stdlib-5m
MEASURED ?= artifacts/measured
PROMPT ?= def fibonacci(
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help dev export run validate inspect card parity faults synthetic interop reduced web bench-export \
  bench-others bench-peers bench-web bench bench-flat bench-kernels performance test lint types clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

dev: $(READY)  ## create the environment in .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "PYTHON=$(PYTHON): Python %d.%d, expected 3.11 or newer" % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@mkdir -p .ns && ln -sfn .. .ns/tramontane
	@touch $@

export: $(READY)  ## MODEL= QUANT=fp32|int8|int4|int8-dynamic TARGET=ort|portable|web OUT= WINDOW= CACHE=windowed|growing KV=float32|int8 BLOCK= BASE_MODEL= MAX_SHARD= TEXT= CALIBRATION_TEXT= NO_VALIDATE= NO_RESUME=: checkpoint to artifact, parity proved
	@$(BIN)/tramontane export '$(MODEL)' --quant '$(QUANT)' --target '$(TARGET)' --out '$(OUT)' \
	  $(if $(WINDOW),--window '$(WINDOW)') $(if $(BLOCK),--block '$(BLOCK)') \
	  $(if $(CACHE),--cache '$(CACHE)') $(if $(KV),--kv '$(KV)') $(if $(BASE_MODEL),--base-model '$(BASE_MODEL)') \
	  $(if $(MAX_SHARD),--max-shard '$(MAX_SHARD)') $(if $(TEXT),--text '$(TEXT)') \
	  $(if $(CALIBRATION_TEXT),--calibration-text '$(CALIBRATION_TEXT)') \
	  $(if $(NO_VALIDATE),--no-validate) $(if $(NO_RESUME),--no-resume) \
	  $(if $(TOLERANCE),--tolerance '$(TOLERANCE)')

card: $(READY)  ## OUT=: print an artifact's model card
	@$(BIN)/tramontane card '$(OUT)'

run: $(READY)  ## PROMPT= OUT= MAX_MEMORY=: decode from the artifact
	@$(BIN)/tramontane run '$(OUT)' --prompt "$$PROMPT" \
	  $(if $(MAX_MEMORY),--max-memory '$(MAX_MEMORY)')
export PROMPT

validate: $(READY)  ## MODEL= OUT= TEXT= SEED= TOLERANCE= THOROUGH= STORE= REPORT= JUNIT= MARKDOWN=: parity of an artifact, or of anybody's model.onnx
	@$(BIN)/tramontane validate '$(OUT)' --reference '$(MODEL)' --explain \
	  $(if $(TEXT),--text '$(TEXT)') $(if $(TOLERANCE),--tolerance '$(TOLERANCE)') \
	  $(if $(THOROUGH),--thorough) $(if $(REPORT),--report '$(REPORT)') \
	  $(if $(SEED),--seed '$(SEED)') $(if $(STORE),--store '$(STORE)') \
	  $(if $(JUNIT),--junit '$(JUNIT)') $(if $(MARKDOWN),--markdown '$(MARKDOWN)')

web: TARGET = web
web: $(READY)  ## OUT= PORT=: serve the page of examples/web with an artifact, exported first if it is missing
	@test -f '$(OUT)/manifest.json' || $(MAKE) --no-print-directory export OUT='$(OUT)' TARGET='$(TARGET)'
	@$(BIN)/python -m tramontane.interop.web_server '$(OUT)' $(if $(PORT),--port '$(PORT)')

reduced: $(READY)  ## OUT=: the operators that an artifact needs, and its tokens in onnxruntime's own format
	@$(BIN)/python -m tramontane.interop.reduced '$(OUT)' artifacts/reduced

interop: $(READY)  ## MODEL= SHARED= ONLY= REQUIRE=: artifacts through other runtimes, the same tokens asked of each
	@$(BIN)/python -m tramontane.interop '$(MODEL)' --shared '$(SHARED)' --out docs/interop.md \
	  --screenshots artifacts/screenshots $(if $(ONLY),--only $(ONLY)) \
	  $(if $(REQUIRE),--require $(REQUIRE))

parity: $(READY)  ## MODEL= THOROUGH=: every recipe for every target, and one page of all
	@$(BIN)/python -m tramontane.bench.parity '$(MODEL)' \
	  'artifacts/parity/$(notdir $(patsubst %/,%,$(MODEL)))' $(if $(THOROUGH),--thorough)

faults: $(READY)  ## ONLY=: plant every fault in good artifacts, and write docs/faults.md
	@$(BIN)/python -m tramontane.faults $(if $(ONLY),--only '$(ONLY)',--out docs/faults.md)

bench-others: $(READY)  ## MODEL= GENAI_PYTHON= OPTIMUM_PYTHON=: the gate and the linter on other exporters' work
	@$(BIN)/python -m tramontane.bench.others '$(MODEL)' --out docs/other-exporters.md \
	  $(if $(GENAI_PYTHON),--genai-python '$(GENAI_PYTHON)') \
	  $(if $(OPTIMUM_PYTHON),--optimum-python '$(OPTIMUM_PYTHON)')

bench-peers: $(READY)  ## MODEL= OUT= ONLY= ROUNDS= PREFILL= DECODE=: llama.cpp and onnxruntime-genai on the same weights, in turns with ours
	@mkdir -p '$(MEASURED)'
	@$(BIN)/python -m tramontane.interop.peers '$(MODEL)' --work '$(OUT)' --out '$(MEASURED)/peers-$(notdir $(patsubst %/,%,$(MODEL))).json' \
	  $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds '$(ROUNDS)') \
	  $(if $(PREFILL),--prefill $(PREFILL)) $(if $(DECODE),--decode $(DECODE))
bench-peers: OUT = artifacts/peers/$(notdir $(patsubst %/,%,$(MODEL)))

bench: $(READY)  ## OUT= ROUNDS= THREADS=: speed and memory of an artifact, beside the machine's limits
	@test -f '$(OUT)/manifest.json' || $(MAKE) --no-print-directory export OUT='$(OUT)'
	@mkdir -p '$(MEASURED)'
	@$(BIN)/tramontane bench '$(OUT)' --out '$(MEASURED)/speed-$(notdir $(OUT)).json' \
	  --plot '$(MEASURED)/speed-$(notdir $(OUT)).svg' $(if $(ROUNDS),--rounds '$(ROUNDS)') \
	  $(if $(THREADS),--threads '$(THREADS)')

bench-flat: $(READY)  ## MODEL= QUANT= TOKENS=: does a long sequence cost what a short one does? fails where not
	@mkdir -p '$(MEASURED)'
	@$(BIN)/python -m tramontane.bench.flat '$(MODEL)' --quant '$(QUANT)' \
	  --out '$(MEASURED)/flat.json' --plot '$(MEASURED)/flat.svg' $(if $(TOKENS),--tokens '$(TOKENS)')

bench-kernels: $(READY)  ## ROUNDS= THREADS=: kernels that a step could be made of, alone, beside the machine's limits
	@mkdir -p '$(MEASURED)'
	@$(BIN)/python -m tramontane.bench.kernels --out '$(MEASURED)/kernels.json' \
	  $(if $(ROUNDS),--rounds '$(ROUNDS)') $(if $(THREADS),--threads '$(THREADS)')

performance: $(READY)  ## write docs/performance.md, and its plots, from what the benches measured
	@$(BIN)/python -m tramontane.bench.page '$(MEASURED)' --out docs/performance.md

bench-web: $(READY)  ## MODEL= SHARED=: how fast each recipe is in a browser's WASM
	@$(BIN)/python -m tramontane.interop.web_speed '$(MODEL)' \
	  $(wildcard $(SHARED)/models/stories15M) --window 32 --out docs/web.md

synthetic: OUT = artifacts/$(GEOMETRY)$(if $(LAYERS),-$(LAYERS)-layers)
synthetic: $(READY)  ## GEOMETRY= LAYERS= OUT= LAYOUT= DTYPE= SEED= MAX_SHARD=: random weights as large as a known model's
	@$(BIN)/tramontane synthesize '$(GEOMETRY)' '$(OUT)' $(if $(LAYERS),--layers '$(LAYERS)') \
	  $(if $(LAYOUT),--layout '$(LAYOUT)') $(if $(DTYPE),--dtype '$(DTYPE)') \
	  $(if $(SEED),--seed '$(SEED)') $(if $(MAX_SHARD),--max-shard '$(MAX_SHARD)')

inspect: $(READY)  ## MODEL= TARGET= WINDOW= KV= BLOCK=: what a checkpoint (or a known geometry) gives and needs
	@$(BIN)/tramontane inspect '$(MODEL)' --target '$(TARGET)' $(if $(WINDOW),--window '$(WINDOW)') \
	  $(if $(BLOCK),--block '$(BLOCK)') $(if $(KV),--kv '$(KV)')

bench-export: $(READY)  ## GEOMETRY= LAYERS="2 6" QUANTS="int8 int4" GENAI_PYTHON=: memory and time of exports, measured
	@$(BIN)/python -m tramontane.bench.export --geometry '$(GEOMETRY)' \
	  $(if $(LAYERS),--layers $(LAYERS)) $(if $(QUANTS),--quant $(QUANTS)) \
	  $(if $(GENAI_PYTHON),--genai-python '$(GENAI_PYTHON)')
bench-export: GEOMETRY = mistral-7b-v0.1

test: $(READY)  ## run the tests
	@$(BIN)/python -m pytest -q

lint: $(READY)  ## ruff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict
	@$(BIN)/mypy

clean:  ## remove the environment and the artifacts
	rm -rf .venv .ns artifacts
