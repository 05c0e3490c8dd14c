#!/usr/bin/env bash
# Trains the model that ships with the package, in two parts; the same command resumes a run that
# was cut off.
#   DEV_DATA=FOLDER bash scripts/train_smollm2_prm.sh [options of fit]
#
# FOLDER holds, as JSON Lines:
#   gsm8k_train.jsonl            question, answer: the training set of GSM8K (Hub: openai/gsm8k)
#   stepwise_clean_train.jsonl   prompt, completions, labels: GSM8K training solutions, stepverify
#                                (Hub: eth-lre/stepverify), BIG-Bench-Mistake (GitHub:
#                                WHGTyen/BIG-Bench-Mistake), none of them on a public test problem
#   trl_stepwise_test, processbench, best_of_n_mixed, best_of_n_qwen8: evaluation files, whose
#                                problems are left out of training
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$0")/.."
: "${DEV_DATA:?set it to the folder of the data, see scripts/train_smollm2_prm.sh}"

python=${PYTHON:-.venv/bin/python}
folder=data/smollm2_prm
if ! [ -e "$folder/complete" ]; then
    mkdir -p "$folder/exclude"
    head -n 2360 "$DEV_DATA/gsm8k_train.jsonl" | tail -n 2300 >"$folder/gsm8k_train.jsonl"
    head -n 4460 "$DEV_DATA/gsm8k_train.jsonl" | tail -n 2100 >"$folder/gsm8k_more.jsonl"
    head -n 60 "$DEV_DATA/gsm8k_train.jsonl" >"$folder/gsm8k_val.jsonl"
    for file in trl_stepwise_test processbench best_of_n_mixed best_of_n_qwen8; do
        cp "$DEV_DATA/$file.jsonl" "$folder/exclude/"
    done
    "$python" -m prm_lightning format --source "$DEV_DATA/stepwise_clean_train.jsonl" \
        --layout solutions --val_ratio 0.15 --balance none --output "$folder/clean" --overwrite
    touch "$folder/complete"
fi
for part in smollm2_prm smollm2_prm_more; do
    if ! [ -e "outputs/$part/report.html" ]; then
        "$python" -m prm_lightning fit --config "configs/$part.yaml" \
            --output "outputs/$part" --ckpt_path last "$@"
    fi
done
