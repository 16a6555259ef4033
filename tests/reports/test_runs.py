import pytest

from aa_detection.config import ConfigError
from aa_detection.reports import read_run


def test_scalars_are_read_by_name_and_without_what_is_no_number(make_run):
    run = read_run(make_run("plain"))
    assert run.losses == {
        "total_loss": [(19, 2.0)],
        "loss_box_reg": [(19, 0.5), (39, 0.25)],
        "loss_cls": [(19, 1.5)],
    }
    assert list(run.losses)[0] == "total_loss"
    assert run.evaluations == {"AP": [(39, 12.5)]}
    assert run.name == "plain" and not run.augmented


def test_of_an_iteration_written_twice_the_later_line_counts(make_run):
    rows = [{"iteration": i, "total_loss": loss} for i, loss in ((19, 3.0), (39, 2.0), (19, 1.0))]
    run = read_run(make_run("resumed", metrics=rows))
    assert run.losses["total_loss"] == [(19, 1.0), (39, 2.0)]


def test_metrics_of_several_test_datasets_stand_under_their_names(make_run):
    folder = make_run("two", metrics=[{"iteration": 9, "aa_sample_val/bbox/AP": 7.0}])
    results = folder / "inference" / "coco_instances_results.json"
    (folder / "inference" / "aa_sample_val").mkdir()
    moved = results.rename(folder / "inference" / "aa_sample_val" / results.name)
    run = read_run(folder)
    assert run.result_file == moved
    assert run.evaluations == {"AP": [(9, 7.0)]}


def test_a_run_without_metrics_was_evaluated_only(make_run):
    folder = make_run("evaluated")
    (folder / "metrics.json").unlink()
    assert read_run(folder).losses == {}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", None, "config.yaml: No such file or directory: expected the output"),
        ("config.yaml", "a: [1", "config.yaml: line 1, column 6: not a YAML file: "),
        ("config.yaml", "a: !!python/name:os.system", "config.yaml: line 1, column 4: not a YAML"),
        ("config.yaml", "a: " + "[" * 100_000, "config.yaml: nested too deeply"),
        ("config.yaml", "MODEL: {ATTENTION: 1}", "expected a run's configuration with MODEL"),
        ("config.yaml", "MODEL: {}", "config.yaml: expected a run's configuration with MODEL"),
        ("config.yaml", "- 1", "config.yaml: expected config keys and values, got list"),
        ("metrics.json", '{"iteration": 1}\n{"itera', "metrics.json: line 2: expected an object"),
        ("metrics.json", b"\x80\x03\xff", "metrics.json: line 1: expected an object"),
        ("metrics.json", '{"iteration": 1e400}', "metrics.json: line 1: expected an object"),
        ("metrics.json", "[" * 100_000, "metrics.json: line 1: expected an object"),
        ("metrics.json", "[1]", "metrics.json: line 1: expected an object"),
        ("inference/coco_instances_results.json", None, "coco_instances_results.json: no such"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(make_run, file, content, message):
    folder = make_run("broken")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as error:
        read_run(folder)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(folder) in str(error.value)
