"""Laws of training against several norms: which attack a batch gets, and what is learnt of it."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from sat_tf import attacks
from sat_tf.attacks import PGD, several
from sat_tf.runs import checkpoints, distribution
from sat_tf.training import AdversarialTrainer, parts, recipe
from tests import programs

SHAPE = (4, 4, 2)
MADE = [
    PGD(epsilon=8, step_size=8, steps=1),
    PGD(epsilon=90, step_size=90, steps=1, norm="l2"),
    PGD(epsilon=300, step_size=300, steps=1, norm="l1"),
]


def network(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(SHAPE)
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    x = keras.layers.Dense(6, activation="softplus")(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def examples(count=16):
    rng = np.random.default_rng(1)
    images = rng.uniform(20, 235, (count, *SHAPE)).astype(np.float32)
    return tf.constant(images), tf.constant(np.arange(count) % 3, tf.int32)


def cross_entropy(logits, labels):
    z = np.asarray(logits, np.float64)
    top = z.max(1, keepdims=True)
    log_p = z - top - np.log(np.exp(z - top).sum(1, keepdims=True))
    return -log_p[np.arange(len(z)), labels]


def test_a_batch_has_one_attack_which_its_seed_alone_draws():
    net, (images, labels) = network(), examples()
    drawn = several.Drawn(MADE)
    chosen = tf.function(drawn.chosen, autograph=False)
    seeds = [tf.constant([7, step]) for step in range(300)]
    numbers = np.array([int(chosen(seed)) for seed in seeds])
    # 100 each, five standard deviations of a binomial.
    assert np.abs(np.bincount(numbers, minlength=3) - 100).max() < 5 * np.sqrt(300 * 2 / 9)
    pairs = np.histogram2d(numbers[1:], numbers[:-1], 3)[0]
    assert np.abs(pairs - 299 / 9).max() < 5 * np.sqrt(300 * 8 / 81)
    attack = tf.function(drawn, autograph=False)
    alone = [tf.function(one, autograph=False) for one in MADE]
    for number in range(3):
        seed = seeds[int(np.flatnonzero(numbers == number)[0])]
        found = attack(net, images, labels, seed).numpy()
        np.testing.assert_array_equal(found, alone[number](net, images, labels, seed))


def test_the_draw_of_a_step_is_that_of_a_run_that_goes_on_there():
    trainer = AdversarialTrainer(network(), several.Drawn(MADE), seed=3)
    trainer.compile(keras.optimizers.SGD(0.1))

    def draws(steps):
        found = []
        for step in steps:
            trainer.optimizer.iterations.assign(step)
            found.append(int(trainer.attack.chosen(trainer.step_seed())))
        return found

    whole = draws(range(24))
    assert draws(range(12, 24)) == whole[12:] and len(set(whole)) == 3


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([[30, 40], [10, 40], [20, 80]], [0.6, 0.2, 0.2]),
        ([[0, 40], [10, 40], [30, 40]], [0, 0.25, 0.75]),
        ([[30, 40], [10, 40], [0, 0]], [1 / 3] * 3),  # one was never drawn
        ([[0, 40], [0, 4], [0, 9]], [1 / 3] * 3),
        ([[3 * 10**9, 6 * 10**9], [10**9, 4 * 10**9], [0, 1]], [2 / 3, 1 / 3, 0]),
    ],
)
def test_the_chance_of_a_norm_is_its_share_of_the_robust_errors(counts, expected):
    drawn = several.Biased(MADE)
    drawn.counts.assign(np.array(counts))
    np.testing.assert_allclose(drawn.probabilities(), expected, atol=1e-6)
    chosen = tf.function(lambda seeds: tf.map_fn(drawn.chosen, seeds), autograph=False)
    numbers = chosen(tf.constant([[7, step] for step in range(600)])).numpy()
    found, mean = np.bincount(numbers, minlength=3), 600 * np.array(expected)
    assert (np.abs(found - mean) <= 5 * np.sqrt(mean * (1 - np.array(expected)))).all()


def test_chances_that_rounding_leaves_below_one_draw_no_attack_beyond_the_last(monkeypatch):
    drawn = several.Biased(MADE)
    monkeypatch.setattr(drawn, "probabilities", lambda: tf.fill([len(MADE)], 0.01))
    found = [int(drawn.chosen(tf.constant([1, number]))) for number in range(8)]
    assert max(found) == len(MADE) - 1


def test_a_biased_draw_counts_what_it_broke_over_all_replicas():
    strategy, (images, labels) = distribution.strategy("mirrored"), examples()
    with strategy.scope():
        net, drawn = network(), several.Biased(MADE[:2])
    replicas = strategy.num_replicas_in_sync
    parts, truth = np.arange(16).reshape(replicas, -1), np.zeros((2, 2), int)

    @tf.function(autograph=False)
    def attacked(step):
        def of_replica():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            seed, rows = tf.stack([step, replica]), tf.gather(parts, replica)
            some, theirs = tf.gather(images, rows), tf.gather(labels, rows)
            return drawn.chosen(seed), drawn(net, some, theirs, seed)

        return strategy.run(of_replica)

    for step in range(8):
        found = [strategy.experimental_local_results(one) for one in attacked(tf.constant(step))]
        for chosen, adversarial, rows in zip(*found, parts, strict=True):
            wrong = net(adversarial).numpy().argmax(1) != labels.numpy()[rows]
            truth[int(chosen)] += [wrong.sum(), len(rows)]
    copies = strategy.experimental_local_results(drawn.counts.value)
    assert len(copies) == replicas == 2 and (truth[:, 1] > 0).all() and 0 < truth[:, 0].sum()
    for copy in copies:
        np.testing.assert_array_equal(copy, truth)


def test_a_run_that_goes_on_draws_by_what_was_broken_before(tmp_path):
    images, labels = examples(48)
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8).repeat()

    def trainer(seed):
        made = AdversarialTrainer(network(seed), several.Biased(MADE[:2]), seed=5)
        made.compile(keras.optimizers.SGD(0.2, momentum=0.9))
        return made

    def fit(made, start, steps):
        made.fit(data.skip(start), steps_per_epoch=steps, verbose=0, shuffle=False)
        return [v.numpy() for v in made.state]

    whole, other = trainer(0), trainer(1)
    fit(whole, 0, 7)
    assert len(set(whole.attack.probabilities().numpy())) == 2  # the chances are unequal by now
    checkpoints.save(tmp_path, 7, whole.state, {})
    checkpoints.restore(tmp_path, other.state)
    for one, same in zip(fit(other, 7, 11), fit(whole, 7, 11), strict=True):
        np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(other.attack.counts, whole.attack.counts)


def test_the_worst_is_the_largest_loss_image_by_image_or_breaks_where_one_breaks():
    net, (images, labels) = network(), examples(64)
    seed = tf.constant([1, 2])
    each = [attack(net, images, labels, seed).numpy() for attack in MADE]
    logits = [net(one).numpy() for one in each]
    losses = np.array([cross_entropy(one, labels.numpy()) for one in logits])
    found = several.Worst(MADE)(net, images, labels, seed).numpy()
    expected = np.array(each)[losses.argmax(0), np.arange(64)]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert len(set(losses.argmax(0))) > 1  # no attack is the worst of all images
    # A one-hot row is the same label.
    rows = several.Worst(MADE)(net, images, tf.one_hot(labels, 3), seed)
    np.testing.assert_allclose(rows, expected, atol=1e-3)
    found = several.Worst(MADE, by="margin")(net, images, labels, seed)
    broken = np.any([one.argmax(1) != labels.numpy() for one in logits], 0)
    np.testing.assert_array_equal(net(found).numpy().argmax(1) != labels.numpy(), broken)
    assert broken.any() and not broken.all()


def test_the_average_step_is_the_mean_of_the_gradients_of_each():
    images, labels = examples()
    net, learning_rate = network(), 0.5
    still = [PGD(**{**vars(one), "random_start": False}) for one in MADE]  # a piece has its seed
    before = [v.numpy() for v in net.trainable_variables]
    trainer = AdversarialTrainer(net, several.Each(still))
    trainer.compile(keras.optimizers.SGD(learning_rate))
    mean = [np.zeros_like(v, np.float64) for v in before]
    accuracies = []
    for attack in still:
        adversarial = attack(net, images, labels)
        with tf.GradientTape() as tape:
            logits = net(adversarial)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        accuracies.append(np.mean(logits.numpy().argmax(1) == labels.numpy()))
        for total, one in zip(mean, tape.gradient(loss, net.trainable_variables), strict=True):
            total += one.numpy() / len(MADE)
    data = tf.data.Dataset.from_tensors((images, labels))
    logs = trainer.fit(data, verbose=0, shuffle=False).history
    assert logs["adversarial_accuracy"][0] == pytest.approx(np.mean(accuracies), abs=1e-6)
    for old, gradient, new in zip(before, mean, net.trainable_variables, strict=True):
        np.testing.assert_allclose(new.numpy(), old - learning_rate * gradient, atol=2e-5)


@pytest.mark.parametrize("kind", several.COMBINATIONS.values())
def test_a_share_of_epsilon_reaches_every_attack(kind):
    net, (images, labels) = network(), examples()
    half = [PGD(epsilon=one.epsilon / 2, step_size=one.step_size / 2, steps=1, norm=one.norm)
            for one in MADE]  # fmt: skip
    seed = tf.constant([1, 2])
    found = kind(MADE)(net, images, labels, seed, share=tf.constant(0.5))
    np.testing.assert_allclose(found, kind(half)(net, images, labels, seed), atol=1e-3)


@pytest.fixture(scope="module")
def given():
    with programs.imported("sat_tf.train"):
        defaults = {name: flags.FLAGS[name].default for name in programs.names()}
    defaults |= {"epsilon": 8.0, "dataset": "digits"}
    return lambda **values: types.SimpleNamespace(**{**defaults, **values})


@pytest.mark.parametrize("combination", several.COMBINATIONS)
def test_the_flags_reach_the_attack_and_the_validation(given, combination):
    values = given(norms=["linf", "l1"], epsilons=["8", "3060"], norm_combination=combination,
                   attack_steps=5, clean_start=0.25, validation_steps=7)  # fmt: skip
    made = parts.training_attack(values)
    assert type(made) is several.COMBINATIONS[combination]
    found = [(one.norm, one.epsilon, one.step_size, one.steps) for one in made.attacks]
    assert found == [("linf", 8.0, 4.0, 5), ("l1", 3060.0, 1530.0, 5)]
    assert {one.random_start for one in made.attacks} == {0.75}
    validation = parts.validation_attack(values)
    assert (type(validation), validation.by) == (several.Worst, "margin")
    assert [(one.norm, one.epsilon, one.steps) for one in validation.attacks] == [
        ("linf", 8.0, 7), ("l1", 3060.0, 7)
    ]  # fmt: skip
    whole = recipe.Recipe.of(values).completed()
    assert (whole.norm, whole.epsilon) == ("linf", 8.0)
    values.norms, values.epsilons = ["l1", "linf"], ["3060", "8"]
    whole = recipe.Recipe.of(values).completed()
    assert (whole.norm, whole.epsilon) == ("l1", 3060.0)
    assert type(parts.training_attack(given())) is attacks.PGD


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"norms": ["linf", "l1"]}, "a radius for each: --norms=linf,l1 --epsilons=8,3060"),
        ({"norms": ["l1"], "epsilons": ["9"]}, "give two norms or more"),
        ({"norms": ["l1", "l1"], "epsilons": ["9", "8"]}, "give each norm once"),
        ({"norms": ["l1", "l3"], "epsilons": ["9", "8"]}, "'l3'; use one of: linf, l2, l1"),
        ({"norms": ["l1", "l2"], "epsilons": ["9", "x"]}, "'x' is no radius in pixels"),
        ({"norms": ["l1", "l2"], "epsilons": ["9", "0"]}, "'0' is no radius in pixels"),
        ({"norms": ["l1", "l2"], "epsilons": ["inf", "8"]}, "'inf' is no radius in pixels"),
        ({"norms": ["l1", "l2"], "epsilons": ["9", "8"], "step_size": 3.0}, "of one ball"),
    ],
)
def test_norms_that_do_not_fit_are_refused(given, values, said):
    with pytest.raises(ValueError) as error:
        parts.training_attack(given(**values))
    assert said in str(error.value)


@pytest.mark.parametrize("method", ["trades", "free"])
def test_a_method_of_one_ball_says_so(given, method):
    values = given(norms=["linf", "l1"], epsilons=["8", "3060"], method=method)
    with pytest.raises(ValueError, match=f"{method} needs a ball and gradient steps"):
        parts.method(values).trainer(network(), parts.training_attack(values), batch_size=6)


@pytest.mark.parametrize("by", ["loss", "margin"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_image_without_an_answer_is_the_worst(by, place):
    images = tf.zeros([2, *SHAPE])
    moved = [lambda net, images, *_, move=move: images + move for move in (1.0, 2.0, 3.0)]

    def net(images, training):
        move = tf.reduce_max(images, [1, 2, 3])[:, None]
        right = move * tf.constant([[-1.0, 0.0, 0.0]])  # the last is the worst of the others
        return tf.where(move == place + 1.0, float("nan"), right)

    found = several.Worst(moved, by=by)(net, images, tf.constant([0, 0]), tf.constant([1, 2]))
    np.testing.assert_array_equal(found, images + place + 1.0)
