import pytest

from experiments import optimizer
from experiments.common import groups, training
from tests.helpers import assert_refuses


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
    options = groups.OptimizerOptions(optimizer="gradient_descent")
    assert options.examples_per_step() == 0
    assert options.question()["batch_size"] == 0
    assert groups.OptimizerOptions(batch_size=16).examples_per_step() == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decay": 0.1}, "weight_decay is 0.1, but optimizer is momentum, which does not"),
        ({"optimizer": "adamw", "momentum": 0.5}, "momentum is 0.5, but optimizer is adamw"),
        ({"optimizer": "gradient_descent", "batch_size": 16}, "batch_size is 16, but optimizer is"),
        ({"warmup_steps": 5}, "warmup_steps is 5, but schedule is constant; leave it out."),
        ({"penalty_weight": 0.1}, "penalty_weight is 0.1, but penalty is none; leave it out."),
        ({"clip_threshold": 2.0}, "clip_threshold is 2.0, but clipping is none; leave it out."),
    ],
)
def test_values_without_effect_are_refused(options, message):
    assert_refuses(lambda: groups.TrainingOptions(**options), message)


@pytest.mark.parametrize(
    ("initializer", "read"),
    [("scaled", "sigma_w"), ("scaled", "sigma_b"), ("normal", "init_scale")],
)
def test_a_scale_is_taken_with_the_initialiser_that_reads_it_alone(initializer, read):
    assert getattr(groups.ScaledInitializerOptions(initializer=initializer, **{read: 2.0}), read)
    assert_refuses(
        lambda: groups.ScaledInitializerOptions(initializer="he_normal", **{read: 2.0}),
        f"{read} is 2.0, but initializer is he_normal, which does not read it; leave it out.",
    )


def test_an_option_is_read_if_one_of_those_compared_reads_it():
    assert optimizer.Config(optimizers=("sgd", "adamw"), weight_decay=0.1).weight_decay == 0.1
    assert_refuses(
        lambda: optimizer.Config(optimizers=("sgd", "adam"), weight_decay=0.1),
        "weight_decay is 0.1, but optimizers has only sgd, adam, which do not read it; leave it",
    )
    config = optimizer.Config(momentum=0.5)
    assert training.complete(config, optimizer="adam").momentum == 0.5  # which adam leaves
