"""Solutions as models write them, cut into steps."""

import json

import pytest
from conftest import dev_data
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.text import split_steps

# Outputs of models, with a mark between two steps.
OUTPUTS = {
    "gsm8k": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n✂"
    "Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n✂#### 72",
    "math_shepherd": "Step 1: Janet's ducks lay 16 eggs per day.\n"
    "✂Step 2: She eats three for breakfast, so 16 - 3 = 13 eggs are left.\n"
    "✂Step 3: She sells 9 eggs. The answer is: 18",
    # of a Qwen2.5 instruct model
    "numbered_markdown": r"""To find the total points, follow these steps:

1. **Points in the first 20 minutes:**
   Mike scores 4 points.

✂2. **Points in the second 20 minutes:**
   Mike scores 25% more. First, we need to find 25% of 4 points.

   \[
   25\% \text{ of } 4 = 0.25 \times 4 = 1
   \]

   So he scores 5.

✂Thus, the total number of points Mike scored is \(\boxed{9}\).""",
    "headed": """### Step 1: Find the cost
The cost is $80,000 + $50,000 = $130,000.

✂### Step 2: Find the profit
- value: $200,000
- profit: $200,000 - $130,000 = $70,000

✂**Final Answer:** $70,000""",
    "paragraphs": r"""We have that
\[|1 - 4i| = \sqrt{17}.\]

✂Next, we divide:

\[ \frac{17}{17}

= 1 \]

where both are positive.

✂Therefore, the answer is $\boxed{1}$.""",
    # of SmolLM2-135M-Instruct, without its last lines
    "small_model": "In May she sold half as many clips as she did in April.\n"
    "✂So she sold a total of 48/2 = 19 clips each.\n✂#### 812\n✂The answer is: 812",
    "with_code": """Let's solve this problem using Python code.
✂<llm-code>
episodes = 8

# time spent on each episode
minutes = 44 * episodes
minutes
</llm-code>
<llm-code-output>
352
</llm-code-output>
✂Thus Maddie watched \\boxed{352} minutes.""",
    "sentences": "Mr. Lee has $5.50. ✂He pays $2, i.e. Lee keeps $3.50. "
    "✂With $x = 2. Then$ it is 1.5 times that! ✂The answer is 5.25.",
    "lines_and_conclusion": "He earns 3 * 4 = 12.\n✂He spends 5.\n\n✂The answer is 7",
    "introduction_of_its_own": "Ann has three jobs.\n✂1) Baking, 5 hours.\n✂2) Cleaning, 2 hours.",
    "decimals_are_no_numbers": "1.5 * 2 = 3\n✂2.5 * 2 = 5",
    "a_number_out_of_line": "1. There are two years:\n12. of them is no step\n✂2. The sum is 14.",
    "table": "The prices:\n| item | price |\n|---|---|\n| pen | 2 |\n✂Together that is 2.",
    "heading": "## Solution\n\nTwo and two.\n\n✂That is 4.",
    "one_sentence": "The answer is 5.",
    "display_math": "So\n\\begin{align*}\na &= b \\\\\n&= c\n\\end{align*}\nand\n✂c is 2.",
    "nested_items": "1. Costs:\n   1. a pen, 2\n   2. a pad, 3\n✂2. Sum: 5",
    "indented_items": "  1. A pen is 2.\n✂  2. A pad is 3.",
    "chinese": "小明有5个苹果。✂他吃了2个，还剩3个！✂“真好。”✂他说。✂所以答案是3。",
    "japanese": "りんごは5個です。✂2個食べました。",
    "chinese_numbers": "步骤1：计算\n3*4=12\n✂步骤2：加2\n12+2=14",
    "korean_numbers": "단계 1: 3*4\n그래서 12\n✂단계 2: 14",
    "russian": "Он купил 3 яблока. ✂Осталось 2.",
    "french": "Elle a 3 pommes. ✂Élodie en a 4.",
    "hindi": "उसके पास 3 सेब हैं। ✂उसने 1 खाया।",
    "abbreviations": "We have approx. 3, see Fig. 2. ✂Then eq. (3) says so. ✂Prof. Lee agrees.",
    "quoted": 'She says "3." ✂Then 4.',
    "indented_code": "Code:\n\n    x = 3\n\n    y = 4\n\n✂The answer is 7.",
    "tildes": "~~~python\nx = 3\n\ny = 4\n~~~\n\n✂The answer is 7.",
    "korean": "사과가 5개 있습니다. ✂그중 2개를 먹었습니다. ✂3개가 남습니다.",
}


@pytest.mark.parametrize("marked", OUTPUTS.values(), ids=OUTPUTS)
def test_outputs_of_models_are_cut_as_a_reader_would(marked):
    text, steps = marked.replace("✂", ""), [step.strip() for step in marked.split("✂")]
    assert split_steps(text) == steps
    assert split_steps(text.replace("\n", "\r\n")) == steps


def test_a_blank_text_has_no_steps():
    assert split_steps(" \n\t\n") == []


MARKS = ["Step 1:", "Step 2:", "1. ", "2. ", "**T**", "#### 5", "The answer is 5.", "So:"]
SPACE = ["\n", "\n\n", "  ", "\u2028"]
WHOLE = ["\\[", "\\]", "$$", "$", "```", "<llm-code>", "\\end{a}"]
PARTS = st.sampled_from([*MARKS, *SPACE, *WHOLE, "a. B", "x = 2", "| a |"])


@given(parts=st.lists(PARTS, max_size=14))
def test_steps_are_in_the_text_word_for_word_and_only_white_space_is_lost(parts):
    text = "".join(parts)
    steps = split_steps(text)
    assert "".join("".join(steps).split()) == "".join(text.split())
    assert all(step == step.strip() != "" for step in steps)
    position = 0
    for step in steps:
        position = text.index(step, position) + len(step)


def test_paragraphs_of_processbench_are_found_again():
    lines = dev_data("processbench.jsonl").read_bytes().split(b"\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    solutions = [[step.strip() for step in row["steps"]] for row in rows]
    same = sum(split_steps("\n\n".join(steps)) == steps for steps in solutions)
    assert same / len(rows) > 0.9  # the rest are lists and introductions that end in a colon


def test_a_long_text_is_cut_in_time():
    text = "It is \\[ $5 and ```. $x$ " * 1000
    assert "".join("".join(split_steps(text)).split()) == "".join(text.split())
