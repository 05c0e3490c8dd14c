#!/usr/bin/env bash
# Scores two solutions with the shipped process reward model, trains it further, and scores again.
#   bash scripts/quickstart.sh
# Needs Python 3.10 or newer and a Python package index; no GPU, no model hub. The next call resumes
# one that was cut off, and only scores where the model is complete. install.sh tells how to choose
# the Python, and torch for a CPU or a GPU.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$0")/.."

python=.venv/bin/python
run=outputs/quickstart
problem="A library orders 24 books at \$15 each and gets 10% off the price of the books. Sending them costs \$8 more. How much does the library pay?"

score_pair() {
    "$python" -m prm_lightning score --model "$1" --problem "$problem" \
        --steps \
        "The books cost 24 * 15 = \$360." \
        "The reduction is 360 * 10% = \$36." \
        "So the reduced price is 360 - 36 = \$324." \
        "With the sending, the library pays 324 + 8 = \$332." \
        --steps \
        "The books cost 24 * 15 = \$360." \
        "The reduction is 360 * 10% = \$63." \
        "So the reduced price is 360 - 63 = \$297." \
        "With the sending, the library pays 297 + 8 = \$305."
}

bash scripts/install.sh
export HF_HUB_OFFLINE=1 # the backbone is in an installed wheel

SECONDS=0
score() {
    "$python" -m prm_lightning score --model smollm2-135m-prm --problem "$@"
}
printf '\nThe shipped model on right solutions and on the same with a mistake:\n'
printf '\na slip in a percentage (10%% of 360 is no 63)\n'
score_pair smollm2-135m-prm
printf '\na slip in a sum\n'
score "For a trip to a zoo, Chloe counts 43 students in the first bus and 38 in the second. How many students are there?" \
    --steps "The total is 43 + 38 = 81 students." \
    --steps "The total is 43 + 38 = 18 students."
printf '\na number copied wrongly\n'
score "A hall has 2 rows with 8 chairs each. At the play, 5 chairs are free. How many chairs are occupied?" \
    --steps "The rows have 2 * 8 = 16 chairs in all." "So 16 - 5 = 11 chairs are taken." \
    --steps "The rows have 2 * 8 = 16 chairs in all." "So 16 - 6 = 10 chairs are taken."
printf 'score    six solutions with smollm2-135m-prm: %d s\n\n' "$SECONDS"

SECONDS=0
if [ -f "$run/best_model/prm.json" ] && [ -f "$run/final_model/prm.json" ]; then
    done="$run/best_model is complete"
else
    "$python" -m prm_lightning fit --config configs/quickstart.yaml --ckpt_path last
    done="trained $run/best_model"
fi
printf 'train    %s: %d s\n' "$done" "$SECONDS"

SECONDS=0
printf '\nThe first two solutions after training on problems of another kind, which does them no good:\n'
score_pair "$run/best_model"
printf 'score    two solutions with %s: %d s\n' "$run/best_model" "$SECONDS"
printf 'report   %s\n' "$run/report.html"
