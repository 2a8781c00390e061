"""Texts of a vocabulary that want to be more than text, and a study of them."""

import random
import re

from jsaeval.rating.study import INTERVALS, Effect, Item, Study, Window
from tests.rating.studies import make_study


_MARKUP = r"""
< > </ /> <!-- --> --!> <![CDATA[ ]]> & &amp; &lt; &#x3c; &#60 &nbsp; &copy " ' ` = "> {{ {% {# ${7*7}
script <script> </script> alert(1) <script>alert(1)</script> <svg/onload=alert(1)> <iframe> javascript:alert(1)
<img/src=x/onerror=alert(1)> 'onclick='alert(1) "onfocus="alert(1)"autofocus=" <body/onload=alert(1)> <math> <template>
</li></ul> </b> </i> </section> <b/class=s9> </textarea> </title> </style> <style>*{display:none}
<base/href=//x> <plaintext> hx-get=/undo data-hx-trigger=load hx-on:load=alert(1) <b/hx-get=/undo/hx-trigger=load>
id=page <!--padding-->
the of """
_CHARACTERS = (
    "\x00 \x01 \x07 \x08 \t \n \r \x0b \x0c \x1b \x7f \x80 \x85 \x9f \u00ad \u200b \u200d \u200e \u200f \u202a \u202e"
)
_MORE = "\u2066 \u2069 \u2028 \u2029 \ufeff \ud800 \udfff \ufffe \uffff \U000e0001"
_WORDS = "\U0010ffff \u0301\u0301 مرحبا שלום 日本 😀 é"
PIECES = (
    *re.findall(r"\S+", _MARKUP),
    *_CHARACTERS.split(" "),
    *_MORE.split(" "),
    *_WORDS.split(" "),
    " ",
    "  ",
    "\r\n",
    "x" * 60,
    "W" * 200,
)


def hostile(n: int, seed: int = 0) -> list[str]:
    """Texts of one to five pieces; every piece is there alone."""
    draw = random.Random(seed)
    texts = list(PIECES) + ["".join(draw.choices(PIECES, k=draw.randint(1, 5))) for _ in range(n - len(PIECES))]
    draw.shuffle(texts)
    return texts


def hostile_study(texts: list[str], items: int = 8) -> Study:
    """Windows of nine of them, spread over items. They are tokens whose logits change, too."""
    shares = (0.0, 0.5, 0.0, 0.0, 0.9, 0.0, 0.0, 1.0, 0.0)
    windows = [Window(tuple(texts[i : i + 9]), shares, 4) for i in range(0, len(texts) - 8, 9)]
    made = {}
    for n in range(items):
        own = windows[n::items]
        intervals = tuple(tuple(own[i::INTERVALS]) for i in range(INTERVALS))
        effects = tuple(Effect(text, 0.3) for text in texts[n::items])
        made[f"item{n}"] = Item(f"item{n}", intervals, (11, 1), effects, effects[:3])
    return Study("hostile", texts[0], make_study(1).rubric, True, 0.0, 0, made)
