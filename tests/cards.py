"""Cards of sample records."""

import yaml
from samples import sample_record

from hf_immunize.release.card import create_model_card


def card_of(**changes):
    return create_model_card(sample_record(**changes), "me/immune")


def metadata(card):
    return yaml.safe_load(str(card).split("---\n")[1])
