"""One grammar for every name with options: what is written is read, what is unclear is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat_tf import activations, models, specs

# Printable, and none of the grammar's own characters; white space at the ends does not count.
_TEXT = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1)
_WORDS = _TEXT.filter(lambda text: not set(text) & set(":=,"))
_VALUES = _TEXT.filter(lambda text: "," not in text)
_SPACES = st.sampled_from(["", " ", "\t "])


@given(_WORDS, st.dictionaries(_WORDS, _VALUES, max_size=4), st.booleans())
def test_what_is_written_is_read_again(name, options, path):
    name = f"{name}:call" if path else name
    assert specs.split(specs.join(name, options), path=path) == (name, options)


@given(_WORDS, st.dictionaries(_WORDS, _VALUES, max_size=4), _SPACES)
def test_white_space_and_empty_options_do_not_count(name, options, space):
    texts = "".join(f"{space}{k}{space}={space}{v}{space},{space}," for k, v in options.items())
    assert specs.split(f"{space}{name}{space}:{texts}") == (name, options)


@given(_WORDS, st.dictionaries(_WORDS, _VALUES, min_size=1, max_size=4), st.data())
def test_an_option_without_a_value_or_given_twice_is_named(name, options, data):
    key = data.draw(st.sampled_from(sorted(options)))
    spec = specs.join(name, options)
    with pytest.raises(ValueError, match="given twice") as refusal:
        specs.split(f"{spec},{key}=again")
    assert repr(key) in str(refusal.value)
    with pytest.raises(ValueError, match="lacks a value") as refusal:
        specs.split(f"{spec},{key}")
    assert repr(key) in str(refusal.value)
    with pytest.raises(ValueError, match="lacks a value"):
        specs.split(f"{spec},={key}")


@given(
    st.dictionaries(
        _WORDS,
        st.booleans() | st.integers() | st.floats(allow_nan=False) | st.just("wide"),
        max_size=4,
    )
)
def test_values_come_back_as_what_they_were(options):
    read = specs.parse(specs.join("name", options))[1]
    assert read == options
    assert [type(value) for value in read.values()] == [type(v) for v in options.values()]


@pytest.mark.parametrize("parse", [models.parse, activations.parse])
@pytest.mark.parametrize(
    "options, said", [("alpha=1,alpha=2", "'alpha'.* given twice"), ("alpha", "write celu:key=")]
)
def test_networks_and_activations_are_read_by_the_same_grammar(parse, options, said):
    with pytest.raises(ValueError, match=said):
        parse(f"celu:{options}")


def test_a_name_that_is_not_valid_is_refused_with_those_that_are():
    assert specs.one_of("norm", "l2", ("linf", "l2")) == "l2"
    with pytest.raises(ValueError, match="^norm is 'l1'; use one of: linf, l2$"):
        specs.one_of("norm", "l1", ("linf", "l2"))
