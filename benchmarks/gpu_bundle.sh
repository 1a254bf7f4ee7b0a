#!/usr/bin/env bash
# Wheels that benchmarks/gpu_check.py needs on a machine without a network that has torch, transformers, accelerate and
# peft already (Python 3.12, x86-64): into FOLDER/core, and spaCy's set, which only the check "toy" needs, into
# FOLDER/spacy. Each stays under 60 MiB.
#
#   bash benchmarks/gpu_bundle.sh FOLDER
#   there: python3 -m pip install --no-index --no-deps --target site FOLDER/core/*.whl FOLDER/spacy/*.whl
#          PYTHONPATH=site python3 benchmarks/gpu_check.py --out results
set -euo pipefail
folder=${1:?usage: gpu_bundle.sh FOLDER}
python=${PYTHON:-python3}
limit=$((60 * 1024 * 1024))

core=(trl==1.16.* datasets dill multiprocess av==18.* qwen-vl-utils)
spacy=("spacy>=3.8,<4" "thinc>=8.3,<8.4" blis catalogue confection cymem murmurhash preshed spacy-legacy spacy-loggers
    srsly wasabi weasel pydantic pydantic-core annotated-types typing-inspection cloudpathlib smart-open)

fetch() {
    local target=$1
    shift
    mkdir -p "$target"
    local platforms=()
    for tag in manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_24 manylinux_2_17 manylinux_2_12 manylinux_2_5 \
        manylinux2014 manylinux2010 manylinux1; do
        platforms+=(--platform "${tag}_x86_64")
    done
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        "${platforms[@]}" --dest "$target" "$@"
    local size
    size=$(du --bytes --summarize "$target" | cut -f 1)
    echo "$target: $(find "$target" -name '*.whl' | wc -l) wheels, $((size / 1024 / 1024)) MiB"
    if ((size > limit)); then
        echo "$target: more than $((limit / 1024 / 1024)) MiB" >&2
        exit 1
    fi
}

fetch "$folder/core" "${core[@]}"
fetch "$folder/spacy" "${spacy[@]}"
