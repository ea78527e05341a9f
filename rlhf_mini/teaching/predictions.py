"""A field for a student's prediction, to be set beside the answer later."""

from __future__ import annotations

from typing import Any

import ipywidgets

NOTHING = "no prediction"


class Prediction(ipywidgets.HBox):
    """A question with a field; what is written there is kept until its answer is shown."""

    def __init__(self, question: str) -> None:
        self.question = question
        self.field = ipywidgets.Text(placeholder="your prediction", layout={"width": "12em"})
        super().__init__([ipywidgets.Label(f"Predict: {question}"), self.field], layout={"flex_flow": "row wrap"})

    @property
    def said(self) -> str:
        """What the student wrote."""
        return self.field.value.strip() or NOTHING

    def beside(self, found: Any) -> None:
        """Print the prediction and what was found, side by side."""
        print(f"{self.question} You said: {self.said}. Found: {found}")

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """As any widget; without a kernel there is only the question."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        data["text/plain"] = f"Predict: {self.question} [          ]"
        return bundle


def predict(question: str) -> Prediction:
    """A field for the answer to a question, as the last line of a cell; `beside` shows it with the answer later.

    The question is a label: markup is shown as it is written.
    """
    return Prediction(question)
