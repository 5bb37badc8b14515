# Every target only calls the tramontane command or a tool.
#
# `make help` prints each line "target:  ## group: text". `make help-TARGET` prints the lines
# "#? OPTION text" of all options that the target's recipe reads; "#? OPTION/TARGET text" is for
# a target where an option means something else. An option reaches its command as it was typed.
#
#? MODEL                    checkpoint: a folder or a GGUF file
#? MODELS                   checkpoints, each a folder or a GGUF file
#? ADAPTER                  folders of LoRA adapters (PEFT) to merge into MODEL, in this order
#? QUANT                    recipe that make recipes prints, or auto with SIZE or BITS
#? QUANT/inspect            fp32, int8, int8-smooth, int8-small, int4, int4-small, int4-rtn, int4-rtn-small or int8-dynamic
#? QUANT/bench-flat         recipe of the artifact that is measured
#? RECIPE                   your own recipe's file, or an artifact's folder, instead of QUANT
#? RECIPE/recipes           print this one's file: a name, your own file, an artifact
#? TARGET                   kernels: ort, portable (any runtime) or web (browsers' WASM)
#? OUT                      artifact folder (default: artifacts/ and a name made of the options)
#? OUT/validate             artifact folder, or any exporter's model.onnx
#? OUT/inspect              artifact folder or model.onnx to describe, instead of a checkpoint
#? OUT/budget               recipe to write (default: artifacts/budget/MODEL.toml); a plot is beside it
#? OUT/sweep                folder of the page and the artifacts (default: artifacts/sweep)
#? OUT/synthetic            checkpoint folder to write (default: artifacts/GEOMETRY)
#? OUT/bench-quality        folder of the quantized models (default: artifacts/quality/MODEL)
#? OUT/bench-peers          folder of the other runtimes (default: artifacts/peers/MODEL)
#? WINDOW                   window in tokens, instead of MODEL's; a pattern by layer: none,4096
#? WINDOW/validate          window in tokens of another exporter's graph (default: MODEL's)
#? WINDOW/faults            window in tokens of the artifacts; give 64 for a MODEL without one
#? CACHE                    windowed: fixed-size KV cache (default); growing: grows with the text
#? KV                       type of keys and values: float32 (default), int8, or float16 with NATIVE=1
#? SIZE                     budget for the files of weights, e.g. 3.8GB, with QUANT=auto
#? SIZE/budget              budget for the files of weights, e.g. 3.8GB
#? BITS                     budget in bits per weight, over all files of weights, e.g. 5, with QUANT=auto
#? BITS/budget              budget in bits per weight, over all files of weights, e.g. 5
#? SCHEDULER                where QUANT=auto measures matrices: tcp://HOST:PORT of a Dask scheduler, or
#?                          local:N for N processes (default: this process)
#? SCHEDULER/budget         where matrices are measured: tcp://HOST:PORT of a Dask scheduler, or local:N
#?                          for N processes (default: this process)
#? SCHEDULER/sweep          where artifacts are exported: tcp://HOST:PORT of a Dask scheduler, or
#?                          local:N for N processes (default: this process)
#? BLOCK                    weights that share a scale, at most: 16, 32, 64, 128 (default) or 256
#? BASE_MODEL               the checkpoint's name on the Hub, ORG/NAME, for the model card
#? MAX_SHARD                cut the weights into files of at most this size, e.g. 2GB
#? MAX_SHARD/synthetic      cut the checkpoint into files of at most this size (default: 5GB)
#? CALIBRATION_TEXT         text by which int4 is rounded and others are scaled, or several (default: a bundled one)
#? CALIBRATION_TOKENS       tokens of it that int4 is rounded by (default: 16384)
#? TEXT                     text to measure parity on (default: a bundled one, half code, half story)
#? TEXT/bench-quality       text to score (default, for the bundled model alone: files it never saw)
#? POSITIONS                positions of TEXT to score, at least (default: 8192)
#? SEED                     seed for the random tokens and the start in TEXT (default: 0)
#? SEED/synthetic           seed of the weights (default: 0)
#? SEED/fuzz                seed of the mutations (default: 0)
#? SEED/torture             seed of what is drawn (default: 0)
#? SECONDS                  how long to fuzz (default: 120)
#? KILLS                    signals and full disks, earlier runs included (default: 1000)
#? MUTATIONS                mutated files, earlier runs included (default: 100000)
#? FLIPS                    flipped bits, earlier runs included (default: 1000)
#? TOLERANCE                multiplies the bounds against the recipe; 0.5: twice as strict
#? MAX_KL                   largest mean KL from the float32 model on TEXT (default: 2)
#? MIN_AGREEMENT            least top-1 agreement with it on TEXT, 0 to 1 (default: 0.2)
#? THOROUGH                 1: check all lengths and all layers, which takes much longer
#? STORE                    folder of the stored PyTorch results (default: the user's cache)
#? NATIVE                   1: add a graph with our own attention kernel (make native builds it)
#? PLATFORM                 build for another system, such as linux-aarch64 (default: this one)
#? NO_VALIDATE              1: skip the parity check
#? NO_VALIDATE/inspect      1: plan an export without its parity check
#? NO_RESUME                1: start anew instead of resuming an interrupted export
#? NO_REPLACE               1: fail if the artifact folder exists, instead of replacing it
#? KEY/sign                 private key to sign with, in PEM: an elliptic curve
#? KEY/verify               public key of the signer, in PEM
#? SIGNATURE/sign           signature to write (default: OUT.sig, beside the folder)
#? SIGNATURE/verify         signature to verify (default: OUT.sig, beside the folder)
#? CERTIFICATE              certificate of KEY, for verifiers that trust its issuer
#? PROMPT                   text to continue
#? MAX_MEMORY               fail instead of using more memory than this, e.g. 6GiB
#? REPORT                   folder for report.html and report.json
#? JUNIT                    file for a report in JUnit XML
#? MARKDOWN                 file for a table of all checks, in Markdown
#? PORT                     port of the page (default: one that is free)
#? SHARED                   folder of further trained models, left out if it is missing
#? ONLY/interop             names of runtimes, or parts of them; the others are left out
#? ONLY/faults              plant the faults whose name contains this
#? ONLY/bench-peers         names of runtimes; the others are left out
#? ONLY/bench-quality       parts of formats' names, such as int4; the others are left out
#? ONLY/native-wheels       platforms, such as linux-aarch64; the others are left out
#? ONLY/native-platforms    platforms, such as linux-aarch64; the others are left out
#? ONLY/fuzz                fuzz the files whose name contains this
#? ONLY/gguf                kinds of file, such as Q4_K_M; the others are left out
#? ARTIFACTS                words of artifact names, or all (default: those that ONLY needs)
#? REQUIRE                  names of runtimes that must be installed, or all
#? ROUNDS                   repetitions, each in a new process
#? THREADS                  threads to compute with (default: as many as physical cores)
#? TOKENS                   tokens to decode
#? PREFILL                  prompt lengths, in tokens
#? DECODE                   positions to decode at, in tokens
#? GENAI_PYTHON             Python of an environment with onnxruntime-genai
#? OPTIMUM_PYTHON           Python of an environment with optimum
#? GEOMETRY                 a known model's name; an unknown one prints the list
#? LAYERS/synthetic         number of layers to write, from the first (default: all)
#? LAYERS/bench-export      numbers of layers; each is exported (default: all layers)
#? QUANTS                   recipes to measure (default: int8 int4-rtn)
#? QUANTS/sweep             recipes: names, or files of your own (default: all)
#? TARGETS                  kernels: ort (default), portable, web
#? LAYOUT                   layout of the files: huggingface (default) or mistral
#? DTYPE                    bfloat16 (default), float16 or float32
#? MEASURED                 folder that keeps what the benchmarks measured
#? PYTHON                   Python that creates .venv, 3.11 or newer
.SHELLFLAGS := -fc
BIN := .venv/bin
READY := .venv/.ready
LOG := .venv/install.log

# Make expands `$` in a value whenever it is read. These lines turn each option that was given,
# on the command line or in the environment, into the very text that was typed; recipes read it
# from the environment, as "$$OPTION", where no quote or newline in it can hurt.
OPTIONS := $(sort $(shell sed -n 's,^\#? *\([A-Z_]*\)[ /].*,\1,p' Makefile))
origin-of = $(firstword $(origin $1))
typed := $(foreach name,$(.VARIABLES),$(if $(filter command,$(call origin-of,$(name))),$(name)))
$(foreach name,$(OPTIONS),\
  $(if $(filter command,$(call origin-of,$(name))),$(eval override $(name) := $$(value $(name))))\
  $(if $(filter environment,$(call origin-of,$(name))),$(eval $(name) := $$(value $(name))))\
  $(if $(filter-out undefined,$(call origin-of,$(name))),$(eval given-$(name) := $$(value $(name)))))

PYTHON ?= python3

# An option that no target has, or that only other targets have, ends make: it would be ignored.
quoted = '$(subst ','\'',$1)'
ifeq ($(MAKELEVEL),0)
  refusal := $(if $(typed),$(shell $(call quoted,$(PYTHON)) console/make_help.py --refuse \
    $(call quoted,$(MAKECMDGOALS)) $(foreach name,$(typed),$(call quoted,$(name)))))
  $(if $(refusal),$(error $(refusal)))
endif

MODEL ?= models/stdlib-5m
MODELS ?= models/stdlib-5m
QUANT ?= int8
TARGET ?= ort
SHARED ?= ../shared
GEOMETRY ?= stdlib-5m
MEASURED ?= artifacts/measured
PROMPT ?= def fibonacci(
export $(foreach name,$(OPTIONS),$(if $(filter-out undefined,$(origin $(name))),$(name)))

# Hints of a command are then lines of make.
export TRAMONTANE_CALLED_FROM := $(value PWD)
export TRAMONTANE_OPTIONS := $(OPTIONS)
tramontane = TRAMONTANE_CALLER=make $(BIN)/tramontane
module = TRAMONTANE_CALLER=make $(BIN)/python -m tramontane
# One option as a flag, a list of words, or a switch; nothing where it is not given.
flag = $(if $($1),--$2="$$$1")
each = $(if $($1),$$(printf -- "--$2=%s " $$$1))
many = $(if $($1),--$2 $$$1)
switch = $(if $(filter-out 0,$($1)),--$2)

quant = $(if $(RECIPE),--recipe="$$RECIPE" $(if $(given-QUANT),--quant="$$QUANT"),--quant="$$QUANT")
choices = $(quant) --target="$$TARGET" $(call flag,WINDOW,window) \
  $(call flag,BLOCK,block) $(call flag,CACHE,cache) $(call flag,KV,kv) $(call each,ADAPTER,adapter)
size = $(call flag,SIZE,size) $(call flag,BITS,bits)
measuring = $(call flag,TEXT,text) $(call flag,SEED,seed) $(call flag,TOLERANCE,tolerance) \
  $(call flag,MAX_KL,max-kl) $(call flag,MIN_AGREEMENT,min-agreement) \
  $(call switch,THOROUGH,thorough) $(call flag,STORE,store)
export-options = $(choices) $(size) $(call flag,BASE_MODEL,base-model) \
  $(call flag,MAX_SHARD,max-shard) $(call each,CALIBRATION_TEXT,calibration-text) \
  $(call flag,CALIBRATION_TOKENS,calibration-tokens) $(call flag,SCHEDULER,scheduler) $(call switch,NATIVE,native) $(measuring) \
  $(call switch,NO_VALIDATE,no-validate) $(call switch,NO_RESUME,no-resume) \
  $(call switch,NO_REPLACE,no-replace)
# Sets OUT, where it is not given, to the folder that export writes.
artifact = OUT="$${OUT:-$$($(tramontane) export "$$MODEL" $(choices) $(size) --print-out)}"
fresh-artifact = $(artifact) && { test -f "$$OUT/manifest.json" || \
  $(tramontane) export "$$MODEL" --out="$$OUT" $(export-options); }
stem = $$(basename -- "$$MODEL")
# A file's tests stay in one process: they share what its fixtures made.
in-parallel = --numprocesses=auto --maxprocesses=4 --dist=loadfile

.PHONY: help dev export run validate inspect recipes budget sweep card sign verify sbom parity faults fuzz torture synthetic interop gguf models \
  reduced native native-wheels native-platforms web bench-export bench-others bench-peers bench-quality bench-web bench bench-flat \
  bench-kernels \
  performance dist test test-fast lint types clean

help:  ## start here: list the targets; make help-TARGET lists the options of one
	@"$$PYTHON" console/make_help.py

help-%:
	@"$$PYTHON" console/make_help.py '$*'

export: $(READY)  ## start here: write an artifact folder from a checkpoint, compared with PyTorch
	@$(tramontane) export "$$MODEL" $(call flag,OUT,out) $(export-options)

run: $(READY)  ## start here: continue a prompt with an artifact
	@$(artifact) && $(tramontane) run "$$OUT" --prompt="$$PROMPT" $(call flag,MAX_MEMORY,max-memory)

web: TARGET = $(or $(given-TARGET),web)
web: $(READY)  ## start here: serve a page that runs an artifact in your browser
	@$(fresh-artifact) && $(module).deploy.web_server "$$OUT" $(call flag,PORT,port)

inspect: $(READY)  ## use: sizes and memory of an export before it starts, and whether it can run
	@$(tramontane) inspect "$${OUT:-$$MODEL}" $(choices) $(call switch,NO_VALIDATE,no-validate)

recipes: $(READY)  ## use: print how each recipe stores every matrix
	@$(tramontane) recipes $(if $(RECIPE),"$$RECIPE")

budget: $(READY)  ## use: write the recipe that changes a model least within a size
	@$(tramontane) budget "$$MODEL" $(size) --target="$$TARGET" \
	  --out="$${OUT:-artifacts/budget/$(stem).toml}" $(call each,ADAPTER,adapter) \
	  $(call each,CALIBRATION_TEXT,calibration-text) $(call flag,SCHEDULER,scheduler)

sweep: $(READY)  ## use: export recipes of several models, and write one page of KL over bits
	@$(tramontane) sweep $$MODELS --out="$${OUT:-artifacts/sweep}" $(call many,QUANTS,quants) \
	  $(call many,TARGETS,targets) $(call flag,TEXT,text) $(call switch,THOROUGH,thorough) \
	  $(call flag,SCHEDULER,scheduler)

card: $(READY)  ## use: print an artifact's model card
	@$(artifact) && $(tramontane) card "$$OUT"

sign: export KEY = $(or $(given-KEY),key.pem)
sign: $(READY)  ## use: sign all files of an artifact with a key, offline
	@$(artifact) && $(tramontane) sign "$$OUT" $(call flag,KEY,key) \
	  $(call flag,CERTIFICATE,certificate) $(call flag,SIGNATURE,signature)

verify: export KEY = $(or $(given-KEY),key.pub)
verify: $(READY)  ## use: verify that a key signed all files of an artifact
	@$(artifact) && $(tramontane) verify "$$OUT" $(call flag,KEY,key) $(call flag,SIGNATURE,signature)

sbom: $(READY)  ## use: print an artifact's bill of materials, in CycloneDX's format
	@$(artifact) && $(tramontane) sbom "$$OUT"

reduced: $(READY)  ## use: list an artifact's operators, and write it in ORT format
	@$(artifact) && $(module).deploy.reduced_build "$$OUT" artifacts/reduced

native: $(READY)  ## use: build our own attention kernel, a library that onnxruntime loads
	@$(module).native.build $(call flag,PLATFORM,platform)

native-wheels: $(READY)  ## use: build wheels that bring our own attention kernel, for all platforms
	@$(module).native.wheels $(call many,ONLY,only)

synthetic: $(READY)  ## use: write a checkpoint of random weights, as large as a known model
	@$(tramontane) synthesize "$$GEOMETRY" \
	  "$${OUT:-artifacts/$$GEOMETRY$${LAYERS:+-$$LAYERS-layers}}" $(call flag,LAYERS,layers) \
	  $(call flag,LAYOUT,layout) $(call flag,DTYPE,dtype) $(call flag,SEED,seed) \
	  $(call flag,MAX_SHARD,max-shard)

validate: $(READY)  ## prove: compare an artifact, or any exporter's model.onnx, with its checkpoint
	@$(artifact) && $(tramontane) validate "$$OUT" --reference="$$MODEL" $(call each,ADAPTER,adapter) --explain $(measuring) \
	  $(call flag,WINDOW,window) $(call flag,REPORT,report) $(call flag,JUNIT,junit) $(call flag,MARKDOWN,markdown)

parity: $(READY)  ## prove: export every recipe for every target, and write one page of all
	@$(module).bench.parity "$$MODEL" "artifacts/parity/$(stem)" $(call switch,THOROUGH,thorough)

faults: native  ## prove: plant every fault in good artifacts, and write docs/faults.md
	@$(module).faults $(if $(given-MODEL),--model="$$MODEL") $(call flag,WINDOW,window) \
	  $(call flag,ONLY,only) $(if $(or $(ONLY),$(given-MODEL)),,--out=docs/faults.md)

fuzz: $(READY)  ## prove: mutate files that others write; each is read or refused
	@$(module).fuzz $(call flag,SECONDS,seconds) $(call flag,SEED,seed) $(call flag,ONLY,only)

torture: $(READY)  ## prove: kill exports, fill disks, damage files; write docs/reliability.md
	@$(module).torture $(call flag,KILLS,kills) $(call flag,MUTATIONS,mutations) \
	  $(call flag,FLIPS,flips) $(call flag,SEED,seed) $(if $(SEED),,--page=docs/reliability.md)

interop: $(READY)  ## prove: run artifacts in other runtimes, and write docs/interop.md
	@$(module).interop "$$MODEL" --shared="$$SHARED" --out=docs/interop.md \
	  --screenshots=artifacts/screenshots $(call many,ONLY,only) $(call flag,ARTIFACTS,artifacts) \
	  $(call many,REQUIRE,require)

native-platforms: $(READY)  ## prove: build our attention kernel for all platforms, run it where it can be
	@$(module).interop.native_platforms "$$MODEL" --page=docs/native.md $(call many,ONLY,only)

gguf: $(READY)  ## prove: read every kind of GGUF file that llama.cpp makes, and write docs/gguf.md
	@set --; stories="$$SHARED/models/stories15M"; test ! -e "$$stories" || set -- --narrow="$$stories"; \
	  $(module).bench.peers.gguf_types "$$MODEL" "$$@" $(call many,ONLY,only) \
	  $(call flag,THREADS,threads) $(if $(or $(ONLY),$(given-MODEL)),,--out=docs/gguf.md)
	@$(if $(or $(ONLY),$(given-MODEL)),,$(BIN)/python -m pytest -q -rs -k llama_cpp_computes \
	  tests/export/formats/gguf/test_mistral3.py tests/export/formats/gguf/test_neighbours.py)

models: $(READY)  ## prove: export trained models, and write docs/models.md, with the files that tests make
	@$(module).bench.pages.models --shared="$$SHARED" --out=docs/models.md

bench: $(READY)  ## measure: speed and memory of an artifact, and the hardware limits
	@$(fresh-artifact) && mkdir -p "$$MEASURED" && name="speed-$$(basename -- "$$OUT")" && \
	  $(tramontane) bench "$$OUT" --out="$$MEASURED/$$name.json" --plot="$$MEASURED/$$name.svg" \
	  $(call flag,ROUNDS,rounds) $(call flag,THREADS,threads) && \
  $(module).bench.artifact.turns "$$OUT" $(call flag,ROUNDS,rounds) $(call flag,THREADS,threads)

bench-flat: $(READY)  ## measure: check that a long sequence costs as much per step as a short one
	@mkdir -p "$$MEASURED"
	@$(module).bench.artifact.long_context "$$MODEL" --quant="$$QUANT" --out="$$MEASURED/flat.json" \
	  --plot="$$MEASURED/flat.svg" $(call flag,TOKENS,tokens)

bench-kernels: $(READY)  ## measure: single kernels, and the hardware limits
	@mkdir -p "$$MEASURED"
	@$(module).bench.kernels --out="$$MEASURED/kernels.json" $(call flag,ROUNDS,rounds) \
	  $(call flag,THREADS,threads)

bench-peers: $(READY)  ## measure: llama.cpp and onnxruntime-genai on the same weights, against ours
	@mkdir -p "$$MEASURED"
	@$(module).bench.peers "$$MODEL" --work="$${OUT:-artifacts/peers/$(stem)}" \
	  --out="$$MEASURED/peers-$(stem).json" $(call many,ONLY,only) $(call flag,ROUNDS,rounds) \
	  $(call many,PREFILL,prefill) $(call many,DECODE,decode)

bench-quality: $(READY)  ## measure: how close our recipes and llama.cpp's formats are to the model, for their bits
	@mkdir -p "$$MEASURED"
	@$(module).bench.quality "$$MODEL" --work="$${OUT:-artifacts/quality/$(stem)}" \
	  --out="$$MEASURED/quality-$(stem).json" $(call flag,TEXT,text) \
	  $(call flag,POSITIONS,positions) $(call many,ONLY,only) $(call flag,THREADS,threads)
	@$(if $(or $(ONLY),$(given-MODEL)),,$(module).bench.quality.page "$$MEASURED" --out=docs/quality.md)

bench-others: $(READY)  ## measure: the parity check and the linter on other exporters' artifacts
	@$(module).bench.other_exporters "$$MODEL" --out=docs/other-exporters.md \
	  $(call flag,GENAI_PYTHON,genai-python) $(call flag,OPTIMUM_PYTHON,optimum-python)

bench-web: $(READY)  ## measure: speed of each recipe in a browser's WASM
	@set --; stories="$$SHARED/models/stories15M"; test ! -e "$$stories" || set -- "$$stories"; \
	  $(module).bench.web "$$MODEL" "$$@" --window 32 --out docs/web.md

bench-export: GEOMETRY = $(or $(given-GEOMETRY),mistral-7b-v0.1)
bench-export: $(READY)  ## measure: memory and time of exports of random weights
	@$(module).bench.export --geometry="$$GEOMETRY" $(call many,LAYERS,layers) \
	  $(call many,QUANTS,quant) $(call flag,GENAI_PYTHON,genai-python)

performance: $(READY)  ## measure: write docs/performance.md from what the benchmarks measured
	@$(module).bench.pages.performance "$$MEASURED" --out docs/performance.md

dev: $(READY)  ## develop: create the environment in .venv; other targets do so where it is missing

$(READY): pyproject.toml constraints.txt
	@"$$PYTHON" -c 'import os, sys; sys.exit(sys.version_info < (3, 11) and "PYTHON=%s: Python %d.%d, expected 3.11 or newer" % (os.environ["PYTHON"], *sys.version_info[:2]))'
	@rm -f $@
	@echo 'installing PyTorch, onnxruntime and other packages into .venv: about 0.4 GB to download and'
	@echo '1.9 GB on disk with the CPU build of PyTorch, several GB more with its CUDA build (see README.md)'
	@test -x $(BIN)/python || "$$PYTHON" -m venv .venv
	@( $(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]' 2>&1 && \
	  touch $@ ) | tee $(LOG) | while read -r line; do case $$line in \
	  Collecting*|Downloading*) printf '  %s\n' "$${line%% (from*}";; \
	  'Installing collected'*) echo '  Installing them, a minute or so';; esac; done; \
	  test -e $@ || { tail -n 20 $(LOG); echo 'the installation failed; its whole log is $(LOG)'; exit 1; }
	@mkdir -p .ns && ln -sfn .. .ns/tramontane

dist: $(READY)  ## develop: build wheel and sdist in dist/, the same bytes for the same commit
	@$(module).deploy.distributions

test: $(READY)  ## develop: run all tests, in up to four processes, as many as there are cores
	@$(BIN)/python -m pytest -q $(in-parallel)

test-fast: $(READY)  ## develop: run the tests that are not marked slow, some two minutes
	@$(BIN)/python -m pytest -q $(in-parallel) -m 'not slow'

lint: $(READY)  ## develop: check style with ruff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)  ## develop: check types with mypy, strict
	@$(BIN)/mypy

clean:  ## develop: remove the environment and the artifacts
	rm -rf .venv .ns artifacts
