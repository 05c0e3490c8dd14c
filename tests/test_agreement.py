"""Two judges that have to name the same first error."""

from collections import Counter

import pytest

from prm_lightning.labelling.judges import AgreementJudge
from prm_lightning.types import Judgement, JudgeRequest

SHORT = {"c": "correct", "i": "incorrect", "u": "unsure", "-": None}


class Saying:
    """Answers requests with judgements written down beforehand."""

    def __init__(self, name, *said):
        self.name = name
        self.said = said

    def judge(self, requests):
        assert len(requests) == len(self.said)
        for words in self.said:
            if set(words) <= set(SHORT):
                verdicts = tuple(SHORT[letter] for letter in words)
                reasons = (self.name,) * len(words)
                yield Judgement("judged", verdicts, reasons)
            else:
                yield Judgement(words)


def agree(first, second):
    judge = AgreementJudge(Saying("first", *first), Saying("second", *second))
    return list(judge.judge([JudgeRequest("?", ("a",))] * len(first)))


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ("ccc", "ccc", "judged"),
        ("cii", "ci-", "judged"),
        ("cic", "ciu", "judged"),
        ("ccc", "cci", "disagreement"),
        ("cii", "cci", "disagreement"),
        ("cui", "cii", "unsettled"),
        ("cii", "c--", "unsettled"),
        ("refusal", "ccc", "refusal"),
        ("ccc", "never solved", "never solved"),
        ("refusal", "never solved", "refusal"),
    ],
)
def test_solutions_are_kept_where_both_name_the_same_first_error(first, second, outcome):
    (judgement,) = agree([first], [second])
    assert judgement.outcome == outcome
    if outcome == "judged":
        assert judgement.verdicts == tuple(SHORT[letter] for letter in first)
        assert judgement.reasons == ("first",) * len(first)
    else:
        assert (judgement.verdicts, judgement.reasons, judgement.labels) == ((), (), None)


def test_what_was_dropped_can_be_counted():
    judged = agree(["cc", "ci", "ic", "cu"], ["cc", "cc", "ii", "cc"])
    assert [j.outcome for j in judged] == ["judged", "disagreement", "judged", "unsettled"]
    assert Counter(j.outcome for j in judged)["disagreement"] == 1
    assert AgreementJudge(Saying("a"), Saying("b")).name == "agreement of a and b"


def test_a_judge_that_stops_early_is_an_error():
    class Lazy(Saying):
        def judge(self, requests):
            return iter([])

    with pytest.raises(ValueError, match="shorter"):
        list(AgreementJudge(Saying("a", "cc"), Lazy("b")).judge([JudgeRequest("?", ("a",))]))
