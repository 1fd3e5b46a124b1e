"""Labels move with the exports and never name a version that is not there."""

import pytest
from google.protobuf import text_format
from hypothesis import given, settings, strategies
from tensorflow_serving.config import model_server_config_pb2

from export import labels


def export(directory, label, version):
    """Does with the labels what an export does."""
    planned = labels.planned(directory, label, version)
    (directory / str(version)).mkdir()
    labels.write(directory, planned)
    return planned


def test_stable_moves_with_every_export_and_a_canary_stands_beside_it(tmp_path):
    assert export(tmp_path, "stable", 1) == {"stable": 1}
    assert export(tmp_path, "canary", 2) == {"stable": 1, "canary": 2}
    assert export(tmp_path, "canary", 3) == {"stable": 1, "canary": 3}
    # Whoever asks for the canary goes on being answered.
    assert export(tmp_path, "stable", 4) == {"stable": 4, "canary": 4}
    assert export(tmp_path, "canary", 9) == {"stable": 4, "canary": 9}
    assert export(tmp_path, "stable", 5) == {"stable": 5, "canary": 9}


@settings(deadline=None)  # of a disk that others use, too
@given(
    exports=strategies.lists(
        strategies.tuples(strategies.sampled_from(labels.LABELS), strategies.integers(1, 30)),
        max_size=8,
        unique_by=lambda one: one[1],
    )
)
def test_the_server_reads_what_was_planned_and_every_label_has_its_version(
    tmp_path_factory, exports
):
    directory = tmp_path_factory.mktemp("served")
    there = set()
    for label, version in exports:
        if label == "canary" and not there:
            with pytest.raises(ValueError, match="no stable version; leave --label=canary out"):
                export(directory, label, version)
            continue
        planned = export(directory, label, version)
        there.add(version)
        assert planned[label] == version and set(planned.values()) <= there
        config = model_server_config_pb2.ModelServerConfig()
        text_format.Parse((directory / "models.config").read_text(), config)
        (model,) = config.model_config_list.config
        assert dict(model.version_labels) == planned == labels.read(directory)


def test_the_highest_version_of_an_earlier_export_is_the_stable_one(tmp_path):
    for version in ("9", "10"):
        (tmp_path / version).mkdir()
    assert labels.planned(tmp_path, "canary", 11) == {"stable": 10, "canary": 11}
    assert labels.planned(tmp_path, "stable", 11) == {"stable": 11}


def test_a_label_that_was_moved_by_hand_stays_where_it_is(tmp_path):
    for version in (1, 2, 3):
        export(tmp_path, "stable", version)
    file = tmp_path / "models.config"
    text = file.read_text().replace('"stable" value: 3', '"stable"\n      value: 1,')
    file.write_text(text.replace("  }\n}", '    version_labels: {key: "old", value: 2}\n  }\n}'))
    text_format.Parse(file.read_text(), model_server_config_pb2.ModelServerConfig())
    planned = labels.planned(tmp_path, "canary", 4)
    assert planned == {"stable": 1, "old": 2, "canary": 4}
    file.write_text(file.read_text().replace("value: 2", "value: 7"))
    with pytest.raises(ValueError, match="calls version 7 'old', which is not there; give the"):
        labels.planned(tmp_path, "canary", 4)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("key", "Key"),
        lambda text: text.replace("value: 1", "value: one"),
        lambda text: text.replace("base_path", "path"),
        lambda text: text + text,
    ],
)
def test_a_file_that_is_not_read_is_not_overwritten(tmp_path, change):
    export(tmp_path, "stable", 1)
    file = tmp_path / "models.config"
    file.write_text(change(file.read_text()))
    with pytest.raises(ValueError, match="models.config cannot be read; one network was expected"):
        labels.planned(tmp_path, "stable", 2)


def test_an_unknown_label_is_refused_with_the_list(tmp_path):
    with pytest.raises(ValueError, match="label is 'prod'; use one of: stable, canary"):
        labels.planned(tmp_path, "prod", 1)
