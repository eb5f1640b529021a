import pytest

from experiments.common import groups


def test_the_folder_of_the_data_is_no_part_of_the_question():
    def question(**options):
        return groups.ClassifierOptions(**options).question()

    assert question(data_dir="/a") == question(data_dir="/b")
    assert question(data_dir="/a", subset=True) != question(data_dir="/b", subset=True)
    assert question(seeds=4) != question(seeds=5)


def test_steps_must_be_recorded_evenly():
    with pytest.raises(ValueError, match="steps is 15; it must be a multiple of record_every"):
        groups.ClassifierOptions(steps=15, record_every=10)


def test_gradient_descent_takes_all_examples_and_the_question_says_so():
    options = groups.OptimizerOptions(optimizer="gradient_descent", batch_size=16)
    assert options.examples_per_step() == 0
    assert options.question()["batch_size"] == 0
    assert groups.OptimizerOptions(batch_size=16).examples_per_step() == 16
