"""What TermBalance is given wrongly is named, with the cure."""

import math

import pytest
import torch

from alr_layers import TermBalance
from tests.alr_layers.test_balance import features, quadratic, two_stages


def wrong(call: str) -> None:
    h, other = features(), features(1)
    host, terms = h.sum(), {"alr": quadratic(h, 1.0)}
    balance = TermBalance(alr=0.1)
    calls = {
        "copy of h": lambda: balance(host, terms, at=h.clone(), step=0),
        "term elsewhere": lambda: balance(host, {"alr": other.sum()}, at=h, step=0),
        "constant term": lambda: balance(host, {"alr": torch.ones(())}, at=h, step=0),
        "frozen": lambda: balance(host, terms, at=h.detach(), step=0),
        "typing error": lambda: balance(host, {"arl": terms["alr"]}, at=h, step=0),
        "typing error in weights": lambda: TermBalance(weights={"arl": 1})(
            host, terms, at=h, step=0
        ),
        "one tensor for two stages": lambda: balance(host, [terms, terms], at=[h], step=0),
        "vector": lambda: balance(h.sum(0), terms, at=h, step=0),
        "vector term": lambda: balance(host, {"alr": h.sum(0)}, at=h, step=0),
        "number": lambda: balance(0, terms, at=h, step=0),
        "tensor step": lambda: balance(host, terms, at=h, step=torch.tensor(0)),
        "term called host": lambda: TermBalance()(host, {"host": host}, at=h, step=0),
        "negative share": lambda: TermBalance(alr=-1),
        "share of text": lambda: TermBalance(alr="5%"),
        "infinite share": lambda: TermBalance(alr=math.inf),
        "reserved": lambda: TermBalance(forward=0.1),
        "every 0": lambda: TermBalance(alr=0.1, every=0),
        "start": lambda: TermBalance(alr=0.1, start=0.5),
    }
    calls[call]()


@pytest.mark.parametrize(
    ("call", "message"),
    {
        "copy of h": "gradient of host_loss does not reach `at`: hand over the very tensor",
        "term elsewhere": r"gradient of alr does not reach `at`.*anchors=\{'alr': head.weight\}",
        "constant term": "gradient of alr does not reach `at`",
        "frozen": "`at` requires no gradient",
        "typing error": "built for a term 'alr', terms holds 'arl'",
        "typing error in weights": "built for a term 'arl', terms holds 'alr'",
        "one tensor for two stages": r"terms has 2 stage\(s\), at 1",
        "vector": r"host_loss has shape \(6,\), expected a scalar",
        "vector term": r"term 'alr' has shape \(6,\), expected a scalar",
        "number": "host_loss is a int, expected a scalar tensor",
        "tensor step": "step is a Tensor, expected an int",
        "term called host": "a term cannot be called 'host'",
        "negative share": "share of alr is -1, expected a finite number",
        "share of text": "share of alr is a str",
        "infinite share": "share of alr is inf",
        "reserved": "a term cannot be called 'forward'",
        "every 0": "every is 0, expected a positive integer",
        "start": "start is 0.5",
    }.items(),
)  # fmt: skip
def test_mistakes_are_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        wrong(call)


def test_one_balance_for_two_stages_in_turn_is_refused():
    at, host, terms = two_stages()
    balance = TermBalance(alr=0.1)
    balance(host, terms[0], at=at[0], step=0)
    with pytest.raises(ValueError, match="twice in step 0 with `at` of different shapes"):
        balance(host, terms[1], at=at[1], step=0)
