"""The figure of orders: how often the next word is found, and how often the rival answer is given."""

import altair as alt
import pandas as pd

from stages.page.charts import BLUE, INK, ORANGE, two_lines

ANSWERS = {  # kind of answer: (label, colour, shape), in display order
    "right": ("right answer, as demonstrated", BLUE, "circle"),
    "rival": ("rival answer: known next word, or the neighbour on the other side", ORANGE, "square"),
}


def answers(rows: pd.DataFrame) -> alt.LayerChart:
    """Draw the share of right and of rival answers with 95 % intervals.

    rows: columns shown (order and how it is given), kind (of `ANSWERS`), value, low, high, trials, guess (of right
    answers, where it is known; an upright stroke), in display order.
    """
    names = list(ANSWERS)
    labels, colours, shapes = zip(*ANSWERS.values(), strict=True)
    position = {
        "y": alt.Y(
            "shown:N",
            sort=list(dict.fromkeys(rows["shown"])),
            title=None,
            axis=two_lines(),
            scale=alt.Scale(paddingInner=0.3),
        ),
        "yOffset": alt.YOffset("kind:N", sort=names, scale=alt.Scale(domain=names)),
    }
    labelled = rows.assign(what=rows["kind"].map(dict(zip(names, labels, strict=True))))
    base = alt.Chart(labelled, width="container", height={"step": 11}).encode(
        **position,
        color=alt.Color("kind:N", scale=alt.Scale(domain=names, range=colours), legend=None),
        tooltip=[
            alt.Tooltip("shown:N", title="order"),
            alt.Tooltip("what:N", title="answer"),
            alt.Tooltip("value:Q", title="share", format=".2f"),
            alt.Tooltip("low:Q", title="95 % from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
            alt.Tooltip("trials:Q", title="words asked"),
        ],
    )
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=names, range=shapes), legend=None)
    x = alt.X("value:Q", title="share of words", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    guess = base.transform_filter("isValid(datum.guess)").mark_tick(thickness=1.5, size=12)
    return alt.layer(
        guess.encode(x=alt.X("guess:Q"), color=alt.value(INK)),
        base.mark_rule(strokeWidth=1.4).encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_point(filled=True, size=46, opacity=1).encode(x=x, shape=shape),
    )
