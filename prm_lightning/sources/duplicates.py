"""Near duplicates: problems that say almost the same, found without comparing every pair.

Two problems are near duplicates if their sets of word 5-grams, taken from the normalised text,
have a Jaccard similarity of at least 2/5: shared 5-grams over all 5-grams of the two. A problem
of GSM8K with one to three of its numbers changed is one, or with a name changed, or turned round
as in "if the answer is 40, what is x?"; problems that share a phrase and nothing else are not. Of
2,080 problems of public sets 43 pairs are as similar as that, and all but two of them are one
problem told twice; between 1/5 and 2/5 there are ten more pairs. A text of fewer than five words
has no 5-gram and so no near duplicate.

The join is exact. 5-grams are ordered from rare to common, and two problems as similar as that
must share one of the rarer ones (prefix filtering, as in Chaudhuri, Ganti and Kaushik 2006, "A
Primitive Operator for Similarity Joins in Data Cleaning", and Xiao et al. 2008, "Efficient
Similarity Joins for Near Duplicate Detection"), so that few pairs are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORDS = 5
NEAR = 2, 5  # the least similarity of near duplicates, as numerator and denominator


def similarity(a: str, b: str) -> float:
    """Jaccard similarity, in [0, 1], of the word 5-grams of two normalised problems.

    Equal texts have 1; a text without 5-grams has 0 with every other.
    """
    if a == b:
        return 1.0
    first, second = _grams(a), _grams(b)
    both = len(first & second)
    return both / (len(first) + len(second) - both) if both else 0.0


def near_groups(problems: Sequence[str]) -> list[int]:
    """Put near duplicates together, and what is near to any of them.

    Args:
        problems: normalised, all different.

    Returns:
        For each problem the index of the first problem of its group, which may be itself. It does
        not depend on the order of the problems which of them are together.
    """
    grams = GramSets(problems)
    parent = list(range(len(problems)))
    # By gram and by group at the time of writing, so that groups already joined are skipped whole.
    index: dict[int, dict[int, list[int]]] = {}
    for here in sorted(range(len(problems)), key=lambda i: grams.sizes[i]):
        compared: set[int] = set()
        for gram in grams.rarest(here, *NEAR):
            for group in list(index.get(gram, ())):
                members = index[gram][group]
                if _find(parent, group) != group:  # it was joined to another group since
                    index[gram].setdefault(_find(parent, group), []).extend(members)
                    del index[gram][group]
                if _find(parent, group) == _find(parent, here):
                    continue
                for other in members:
                    if other not in compared and grams.are_near(other, here):
                        _join(parent, other, here)
                        break
                    compared.add(other)
        group = _find(parent, here)
        # The other one will be as long or longer, so that it has to share more of this one.
        for gram in grams.rarest(here, 2 * NEAR[0], sum(NEAR)):
            index.setdefault(gram, {}).setdefault(group, []).append(here)
    return [_find(parent, i) for i in range(len(problems))]


def nearest(problems: Sequence[str], others: Sequence[str]) -> dict[int, int]:
    """Which problems have a near duplicate, or a copy, among others.

    Args:
        problems: normalised.
        others: normalised.

    Returns:
        For each such problem, by index, the index of the most similar one of `others`, the first
        of several.
    """
    grams = GramSets([*problems, *others])
    index: dict[int, list[int]] = {}
    for other in range(len(problems), len(grams.sizes)):
        for gram in grams.rarest(other, *NEAR):
            index.setdefault(gram, []).append(other)
    copies = {other: i for i, other in reversed(list(enumerate(others)))}
    found = {i: copies[problem] for i, problem in enumerate(problems) if problem in copies}
    for here in range(len(problems)):
        if here in found:
            continue
        rare = grams.rarest(here, *NEAR)
        candidates = {other for gram in rare for other in index.get(gram, ())}
        near = [other for other in candidates if grams.are_near(here, other)]
        if near:
            best = min(near, key=lambda other: (-grams.shared_part(here, other), other))
            found[here] = best - len(problems)
    return found


class GramSets:
    """Texts as sets of numbered word 5-grams, each ordered from rare to common.

    Args:
        texts: normalised: words are what white space divides.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import numpy as np

        owners, grams = _number_grams(texts)
        counts = np.bincount(grams, minlength=1)
        order = np.lexsort((grams, counts[grams], owners))
        self.grams: NDArray[np.int64] = grams[order]
        self.counts: NDArray[np.int64] = counts[self.grams]
        sizes = np.bincount(owners, minlength=len(texts))
        self.offsets: list[int] = [0, *np.cumsum(sizes).tolist()]
        self.sizes: list[int] = sizes.tolist()
        self._sets: dict[int, frozenset[int]] = {}

    def rarest(self, text: int, share: int, of: int) -> list[int]:
        """5-grams of a text of which one at least is among any `share` / `of` of them.

        They are its rarest ones, without those that no other text has.
        """
        start, stop = self.offsets[text : text + 2]
        needed = -(-(stop - start) * share // of)
        part = slice(start, min(stop - needed + 1, stop))
        rarest: list[int] = self.grams[part][self.counts[part] > 1].tolist()
        return rarest

    def are_near(self, a: int, b: int) -> bool:
        """Whether the Jaccard similarity is at least `NEAR`."""
        smaller, larger = sorted((self.sizes[a], self.sizes[b]))
        if smaller * NEAR[1] < larger * NEAR[0]:
            return False
        shared = len(self._set(a) & self._set(b))
        return shared * NEAR[1] >= (smaller + larger - shared) * NEAR[0]

    def shared_part(self, a: int, b: int) -> float:
        """Shared 5-grams over all 5-grams of the two."""
        shared = len(self._set(a) & self._set(b))
        return shared / (self.sizes[a] + self.sizes[b] - shared)

    def _set(self, text: int) -> frozenset[int]:
        if text not in self._sets:
            part = self.grams[self.offsets[text] : self.offsets[text + 1]]
            self._sets[text] = frozenset(part.tolist())
        return self._sets[text]


def _grams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)}


def _number_grams(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each different 5-gram of each text: index of the text, number of the 5-gram."""
    import numpy as np

    vocabulary: dict[str, int] = {}
    words: list[int] = []
    lengths: list[int] = []
    for text in texts:
        split = text.split()
        lengths.append(len(split))
        words.extend(vocabulary.setdefault(word, len(vocabulary)) for word in split)
    ones = np.array(words, np.int64)
    owner_of_word = np.repeat(np.arange(len(texts)), lengths)
    count = max(len(ones) - WORDS + 1, 0)
    inside = owner_of_word[:count] == owner_of_word[WORDS - 1 :][:count]
    pairs = _number_pairs(ones[:-1], ones[1:])
    fours = _number_pairs(pairs[:-2], pairs[2:])
    fives = _number_pairs(fours[:count], ones[WORDS - 1 :][:count])[inside]
    owners = owner_of_word[:count][inside]
    # A text may hold a 5-gram several times.
    width = int(fives.max(initial=0)) + 1
    different = np.unique(owners * width + fives)
    return different // width, different % width


def _number_pairs(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each pair, equal for equal pairs; numbers stay below the count of pairs."""
    import numpy as np

    if not len(left):
        return np.empty(0, np.int64)
    numbers: NDArray[np.int64] = np.unique(left * (right.max() + 1) + right, return_inverse=True)[1]
    return numbers


def _find(parent: list[int], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


def _join(parent: list[int], a: int, b: int) -> None:
    a, b = _find(parent, a), _find(parent, b)
    parent[max(a, b)] = min(a, b)
