"""Laws of the packed slots: what an image's verdict depends on, and what it costs."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf.attacks import losses, noise, stepped
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.evaluation import ball, runner
from sat_tf.evaluation.packing.packed import Packed
from sat_tf.evaluation.packing.replicas import Replicas
from sat_tf.evaluation.packing.rungs import Rungs
from sat_tf.evaluation.packing.slots import Slots, Waiting, even_slots
from sat_tf.evaluation.stream import Stream
from sat_tf.evaluation.sweep import Sweep
from sat_tf.runs import distribution
from tests import linear_network
from tests.telling import telling

COUNT = 41


@pytest.fixture(scope="module")
def network():
    """A network with a curved boundary: attacks need several steps and some images stand."""
    keras.utils.set_random_seed(4)
    inputs = keras.Input(linear_network.SHAPE)
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    x = keras.layers.Dense(12, activation="swish", kernel_initializer="he_normal")(x)
    x = keras.layers.Dense(24, activation="tanh")(keras.layers.Flatten()(x))
    return telling(keras.Model(inputs, keras.layers.Dense(4)(x)))


@pytest.fixture(scope="module")
def images():
    return linear_network.images(COUNT, low=20, high=235)


@pytest.fixture(scope="module")
def labels(network, images):
    labels = np.argmax(network.predict(images, verbose=0), -1).astype(np.int32)
    labels[::9] = (labels[::9] + 1) % 4
    return labels


def attack_of(steps=9, **changes):
    options = {"epsilon": 14.0, "step_size": 2.5, "steps": steps} | changes
    return RestartedPGD(**options)


def seeds_of(indices):
    return np.stack([np.asarray(indices, np.int32), np.full(len(indices), 7, np.int32)], 1)


def waiting(network, images, labels, order):
    logits = network.predict(images, verbose=0)
    for i in order:
        yield Waiting(int(i), images[i], int(labels[i]), seeds_of([i])[0], logits[i])


def run(network, images, labels, slots, order=None, attack=None, **options):
    engine = Packed(network, attack or attack_of(), slots, **options)
    order = range(len(images)) if order is None else order
    verdicts = {v.index: v for v in engine.run(waiting(network, images, labels, order))}
    return engine, verdicts


def assert_same(first, second):
    assert first.keys() == second.keys()
    for index, verdict in first.items():
        assert (verdict.broken, verdict.steps) == (second[index].broken, second[index].steps)
        np.testing.assert_allclose(verdict.adversarial, second[index].adversarial, atol=1e-3)


@pytest.fixture(scope="module")
def eight(network, images, labels):
    """An engine of eight slots, which is traced once, and its verdicts."""
    return run(network, images, labels, 8)


def test_packed_gives_the_verdicts_of_a_plain_loop(network, images, labels):
    attack = attack_of(restarts=2)
    _, verdicts = run(network, images, labels, 8, attack=attack)
    seeds = tf.constant(seeds_of(range(COUNT)))
    plain = attack(network, tf.constant(images), tf.constant(labels), seeds)
    wrong = losses.misclassified(network(plain), labels).numpy()
    assert 0.2 < wrong.mean() < 0.9
    for index in range(COUNT):
        assert verdicts[index].broken == wrong[index]
        np.testing.assert_allclose(verdicts[index].adversarial, plain[index], atol=1e-3)


def test_verdicts_depend_neither_on_the_slots_nor_on_the_order(network, images, labels, eight):
    engine, reference = eight

    def again(order):
        return {v.index: v for v in engine.run(waiting(network, images, labels, order))}

    for slots in (1, 5, 64):
        assert_same(reference, run(network, images, labels, slots)[1])
    shuffled = np.random.default_rng(0).permutation(COUNT)
    assert_same(reference, again(shuffled))
    alone = {i: again([i])[i] for i in (0, 3, 11)}
    assert_same(alone, {i: reference[i] for i in alone})


def test_two_replicas_give_the_verdicts_of_one(network, images, labels, eight):
    _, reference = eight
    strategy = distribution.strategy("mirrored")
    with strategy.scope():
        mirrored = keras.models.clone_model(network)
    mirrored.set_weights(network.get_weights())
    engine, verdicts = run(mirrored, images, labels, 8, strategy=strategy)
    assert_same(reference, verdicts)
    # Where nothing breaks every slot is busy to the end: what is paid for is what is needed.
    right, still = np.argmax(network.predict(images, verbose=0), -1), attack_of(epsilon=0.0)
    engine, _ = run(mirrored, images[:40], right[:40], 8, attack=still, strategy=strategy)
    assert engine.slot_steps == engine.image_steps == 40 * still.num_steps
    with pytest.raises(ValueError, match="7 slots cannot be shared by 2 replicas"):
        Packed(mirrored, attack_of(), 7, strategy=strategy)


def test_an_image_leaves_as_soon_as_it_is_broken_and_each_graph_is_traced_once(
    network, images, labels
):
    attack = attack_of(steps=60)
    traced, step = [], attack.step
    attack.step = lambda *arguments: traced.append(1) or step(*arguments)
    engine, verdicts = run(network, images, labels, 4, attack=attack)
    # The body of the loop is traced for its shapes and for its graph, whatever the chunks.
    assert len(traced) <= 2
    standing = [verdict for verdict in verdicts.values() if not verdict.broken]
    assert all(verdict.steps == attack.num_steps for verdict in standing)
    assert engine.image_steps == sum(verdict.steps for verdict in verdicts.values())
    assert engine.image_steps <= engine.slot_steps < COUNT * attack.num_steps


def test_steps_are_those_of_the_closed_form_on_a_linear_network():
    # So flat that float32 keeps both ends of the cross-entropy's gradient.
    network = linear_network.LinearNetwork(2, scale=0.002)
    images = linear_network.images(20)
    labels = network.labels(images)
    attack = attack_of(epsilon=72.0, step_size=8.0, steps=9, random_start=False)
    gaps = linear_network.distances(network, images, labels, "linf")
    engine = Packed(network, attack, 4)
    items = [Waiting(i, images[i], labels[i], seeds_of([i])[0], np.zeros(2)) for i in range(20)]
    for verdict in engine.run(items):
        needed = int(np.ceil(gaps[verdict.index] / 8))  # moves towards the boundary
        assert verdict.broken == (needed <= 9)
        assert verdict.steps == (needed if verdict.broken else 9) + 1
    assert 2 < np.sum(gaps < 72) < 18


class Answers(Rungs):
    """Sizes of which it is said, not found out, that they are exact."""

    def __init__(self, *sizes):
        self.sizes = sizes

    def exact(self, size, images, gradients):
        assert len(images) >= 16
        return size in self.sizes


def two_ways(network, rungs, num_slots=48, **changes):
    """Runs 80 images in at most some slots that may shrink, and in 48 that must not."""
    images = linear_network.images(80, low=20, high=235)
    labels = np.argmax(network(tf.constant(images)), -1).astype(np.int32)
    logits = network(tf.constant(images)).numpy()
    attack, found = attack_of(steps=60, **changes), []
    for one, at_most in ((rungs, num_slots), (Answers(48), 48)):
        engine = Packed(network, attack, at_most, rungs=one)
        items = [
            Waiting(i, images[i], int(labels[i]), seeds_of([i])[0], logits[i]) for i in range(80)
        ]
        found.append((engine, {verdict.index: verdict for verdict in engine.run(items)}))
    return found


def assert_same_bits(first, second):
    for index, verdict in first.items():
        assert (verdict.broken, verdict.steps) == (second[index].broken, second[index].steps)
        np.testing.assert_array_equal(verdict.adversarial, second[index].adversarial)


def steady_network(images, training=False):
    """Sums row by row: no kernel can take another order of them for another size."""
    del training
    weights = np.random.default_rng(3).normal(size=(1, linear_network.DIMENSION, 4)) / 9
    flat = tf.reshape(images, [-1, linear_network.DIMENSION, 1]) / 16.0
    return tf.reduce_sum(tf.tanh(flat * tf.constant(weights, tf.float32)), 1)


@pytest.mark.parametrize(
    "rungs, below",
    [
        (Rungs(steady_network), 0.9),  # by 32
        (Answers(16, 48), 0.97),  # past 32
    ],
)
def test_images_that_are_left_move_into_fewer_slots_and_keep_every_bit(rungs, below):
    (less, shrunk), (more, fixed) = two_ways(steady_network, rungs)
    assert_same_bits(shrunk, fixed)
    assert less.image_steps == more.image_steps <= less.slot_steps < below * more.slot_steps
    assert 10 < sum(verdict.broken for verdict in fixed.values()) < 75


def rounding_network(images, training=False, *, size=48):
    """Rounds its sum to a quarter in batches of a size, as a kernel of another order might.

    What is rounded then decides: the second class is 1/16 ahead of a multiple of a quarter.
    """
    del training
    flat = tf.reshape(images, [-1, linear_network.DIMENSION]) / 16.0
    total = tf.reduce_sum(flat * tf.constant([1.0, -1.0] * (flat.shape[1] // 2)), 1)
    coarse = total + tf.stop_gradient(tf.round(4 * total) / 4 - total)
    total = tf.where(tf.shape(images)[0] == size, coarse, total)
    return tf.stack([total, 0.0625 + 0.0 * total], 1)


def test_where_rounding_could_decide_the_slots_stay_as_many():
    changes = {"epsilon": 4.0, "step_size": 0.02}
    (same, careful), (fixed, expected) = two_ways(
        rounding_network, Rungs(rounding_network), **changes
    )
    assert_same_bits(careful, expected)
    assert same.slot_steps == fixed.slot_steps
    (_, careless), _ = two_ways(rounding_network, Answers(16, 32, 48), **changes)
    assert [careless[i].steps for i in range(80)] != [expected[i].steps for i in range(80)]


def test_no_size_is_begun_with_in_which_rounding_could_decide():
    network = functools.partial(rounding_network, size=64)
    changes = {"epsilon": 4.0, "step_size": 0.02}
    (_, careful), (_, expected) = two_ways(network, Rungs(network), 64, **changes)
    assert_same_bits(careful, expected)
    (_, careless), _ = two_ways(network, Answers(16, 32, 48, 64), 64, **changes)
    assert [careless[i].steps for i in range(80)] != [expected[i].steps for i in range(80)]


def test_a_size_is_exact_for_logits_and_for_gradients_apart():
    """Whichever is asked for first, the other is found out too."""

    @tf.custom_gradient
    def odd(x):
        return tf.identity(x), lambda slope: tf.where(tf.shape(x)[0] == 32, 1.5, 1.0) * slope

    def network(images, training=False):
        return odd(tf.reshape(images, [-1, 4]))

    images = np.random.default_rng(0).uniform(0, 255, (16, 2, 2, 1)).astype(np.float32)
    for gradients in (False, True):
        rungs = Rungs(network)
        assert rungs.exact(32, images, gradients) != gradients
        assert rungs.largest(47, images, False) == 32 and rungs.largest(47, images, True) == 16


def sweep_of(attack, count):
    return Sweep.blank("sweep", attack, count, title="title", noise="noise")


def finish(driver, sweep, candidates):
    for verdict in driver.run(sweep, candidates):
        sweep.note(verdict, 0.5)
    return sweep


class Liar(stepped.Stepped):
    """Calls every image broken and returns it as it is, moved by `shift`."""

    name, norm, epsilon, num_steps = "liar", "linf", 2.0, 3

    def __init__(self, shift=0.0):
        self.shift = shift

    def start(self, images, labels, seeds, logits):
        return stepped.begin(images, labels, seeds)

    def step(self, network, state):
        hit = tf.ones_like(state["broken"])
        point = state["images"] + self.shift
        return stepped.advance(state, self.num_steps, point, hit, point)


def test_a_break_that_a_second_evaluation_does_not_confirm_is_no_break(network, images, labels):
    driver = runner.Runner(network, Stream((images, labels), 16), seed=0)
    clean = driver.clean()
    sweep = finish(driver, sweep_of(Liar(), COUNT), np.ones(COUNT, bool))
    np.testing.assert_array_equal(sweep.broken, ~clean.correct)
    np.testing.assert_array_equal(sweep.unconfirmed, clean.correct)
    assert sweep.done.all() and clean.correct.any() and not clean.correct.all()


@pytest.mark.parametrize("shift, said", [(2.001, "2.00101 is beyond"), (230.0, "lie in")])
def test_an_image_outside_the_ball_or_the_range_stops_everything(
    network, images, labels, shift, said
):
    driver = runner.Runner(network, Stream((images, labels), 16), seed=0)
    with pytest.raises(ball.OutsideBall, match=said):
        finish(driver, sweep_of(Liar(shift), COUNT), np.ones(COUNT, bool))


def test_only_candidates_are_attacked(network, images, labels):
    driver = runner.Runner(network, Stream((images, labels), 16), seed=0)
    candidates = np.zeros(COUNT, bool)
    candidates[[2, 17, 40]] = True
    sweep = finish(driver, sweep_of(attack_of(), COUNT), candidates)
    np.testing.assert_array_equal(sweep.done, candidates)
    np.testing.assert_array_equal(sweep.steps > 0, candidates)


def test_a_sweep_is_looked_at_while_it_reads_batches_of_which_nothing_stands(
    network, images, labels
):
    driver, looks = runner.Runner(network, Stream((images, labels), 16), seed=0), []
    last = np.arange(COUNT) == COUNT - 1
    next(driver.run(sweep_of(attack_of(), COUNT), last, looks.append))
    num_batches = -(-COUNT // 16)
    assert num_batches > 2 and looks[:num_batches] == [0] * num_batches


def test_a_sweep_that_goes_on_adds_to_what_it_has_cost(network, images, labels):
    driver = runner.Runner(network, Stream((images, labels), 16), seed=0)
    candidates = np.arange(COUNT) < 9
    fresh = finish(driver, sweep_of(attack_of(), COUNT), candidates)
    resumed = sweep_of(attack_of(), COUNT)
    resumed.slot_steps, resumed.seconds = 1000, 500.0
    finish(driver, resumed, candidates)
    assert resumed.slot_steps == 1000 + fresh.slot_steps > 1000
    assert resumed.seconds == 500 + 9 * 0.5
    np.testing.assert_array_equal(resumed.steps, fresh.steps)


def test_a_sweep_pays_for_what_its_slots_did(network, images):
    right = np.argmax(network.predict(images, verbose=0), -1).astype(np.int32)
    driver, still = runner.Runner(network, Stream((images, right), 16), 0), attack_of(epsilon=0.0)
    sweep = finish(driver, sweep_of(still, COUNT), np.arange(COUNT) < 32)
    # Nothing breaks, so two rounds keep all 16 slots busy to the end.
    assert sweep.slot_steps == sweep.image_steps == 32 * still.num_steps


@pytest.mark.parametrize("images", [1, 2, 31, 66, 84, 128, 129, 132, 256, 257, 1000])
def test_slots_are_filled_evenly_in_as_few_rounds_as_possible(images):
    slots = even_slots(images, 128)
    rounds = -(-images // slots)
    assert 1 <= slots <= 128
    assert rounds == -(-images // 128)
    fewest = -(-images // rounds)
    if slots != fewest:  # not one too many in any round, but for whole packets of 16
        assert slots % 16 == 0 and slots - fewest < 16 and slots <= fewest * 5 / 4
    if images >= 52:  # from there on whole packets are never more than a quarter off
        assert slots % 16 == 0
    strategy = distribution.strategy("mirrored")
    shared = even_slots(images, 128, strategy)
    assert shared % 2 == 0 and fewest <= shared <= fewest + 1


@pytest.mark.parametrize("at_most, slots", [(100, 96), (64, 64), (50, 48), (20, 16), (15, 15)])
def test_a_batch_that_is_no_multiple_of_a_packet_is_cut_to_one(at_most, slots):
    assert even_slots(1005, at_most) == slots


@pytest.mark.parametrize("at_most", [128, 100, 64, 33, 20, 17, 16, 7])
def test_slots_cost_at_most_a_quarter_where_nothing_falls(at_most):
    for images in range(1, 301):
        slots = even_slots(images, at_most)
        fewest = even_slots(images, at_most, distribution.strategy("one_device"))
        paid = -(-images // slots) * slots
        assert slots <= at_most and (slots == fewest or slots % 16 == 0 and paid <= 1.25 * images)


def test_sizes_are_tried_on_the_images_that_wait_and_none_too_small(network, images, labels):
    class Seen(Answers):
        def exact(self, size, images, gradients):
            self.tried.append((size, images.copy()))
            return False

    rungs = Seen()
    rungs.tried = []
    engine = Packed(network, attack_of(steps=2), 128, rungs=rungs)
    items = [Waiting(i, images[i], int(labels[i]), seeds_of([i])[0], np.zeros(4)) for i in range(5)]
    assert len(list(engine.run(items))) == 5
    assert [size for size, _ in rungs.tried] == [128, 112, 96]
    for _, tried in rungs.tried:
        np.testing.assert_array_equal(tried, images[np.arange(16) % 5])


class Odd(Liar):
    """Breaks the images whose first pixel is above the middle, in its first step."""

    num_steps = 100

    def step(self, network, state):
        hit = state["images"][:, 0, 0, 0] > 127.5
        return stepped.advance(state, self.num_steps, state["images"], hit, state["images"])


def test_images_that_fall_cost_little_however_many_there_are(network):
    many = np.repeat(linear_network.images(1, low=20, high=120), 132, 0)
    many[::3, 0, 0, 0] = 200
    right = np.argmax(network(many, training=False), -1).astype(np.int32)
    driver = runner.Runner(network, Stream((many, right), 128), seed=0)
    rungs = Answers(*range(16, 129, 16))
    engine = driver._engine(network, rungs, sweep_of(Odd(), 132), 132, None)
    list(engine.run(driver._waiting(np.ones(132, bool), "noise")))
    assert engine.image_steps == 44 + 88 * 100
    assert engine.slot_steps <= 1.15 * engine.image_steps


def test_projection_rounding_stays_below_the_tolerance_and_an_escape_does_not():
    rng = np.random.default_rng(0)
    clean = rng.uniform(0, 255, (200, 8, 8, 3)).astype(np.float32)
    from sat_tf.attacks import geometry

    for norm, epsilon in (("linf", 8.0), ("l2", 128.0), ("l1", 3000.0)):
        moved = clean + rng.normal(size=clean.shape).astype(np.float32) * 300
        inside = geometry.project(tf.constant(moved), tf.constant(clean), epsilon, norm).numpy()
        slack = ball.tolerance(epsilon, norm, clean[0].size)
        assert slack < 1e-4 * epsilon
        for image, adversarial in zip(clean, inside, strict=True):
            found = ball.assert_inside(image, adversarial, epsilon, norm, "projection")
            assert found > 0.5 * epsilon
        direction = np.ones([8, 8, 3]) / {"linf": 1, "l2": 192**0.5, "l1": 192}[norm]
        image = np.full([8, 8, 3], 100, np.float32)
        escaped = (image + (epsilon + 5 * slack) * direction).astype(np.float32)
        with pytest.raises(ball.OutsideBall):
            ball.assert_inside(image, escaped, epsilon, norm, "x")


def test_a_slot_holds_all_of_the_image_that_sits_in_it():
    rng, slots = np.random.default_rng(0), Slots(3)
    waiting = [
        Waiting(n, *rng.normal(size=[1, 2, 2, 1]), n % 4, rng.integers(0, 9, 2), rng.normal(size=4))
        for n in range(5)
    ]
    arriving = iter(waiting)
    assert slots.fill(arriving).tolist() == [True] * 3
    slots.occupied[[0, 2]] = False
    assert slots.fill(arriving).tolist() == [True, False, True]

    def expect(*sitting):
        for found, name in zip(slots.arrays(), ("image", "label", "seed", "logits"), strict=True):
            expected = np.stack([getattr(waiting[n], name) for n in sitting])
            np.testing.assert_array_equal(found, expected.astype(found.dtype))
        assert slots.index.tolist() == list(sitting) and slots.num_slots == len(sitting)

    expect(3, 1, 4)
    assert not slots.exhausted
    slots.occupied[0] = False
    assert slots.shrink(2).tolist() == [1, 2]
    expect(1, 4)
    assert slots.occupied.all()


@pytest.mark.parametrize("name", ["one_device", "mirrored"])
def test_the_part_of_a_replica_begins_at_its_first_slot(name):
    shared = Replicas(distribution.strategy(name))
    slots = np.arange(10)
    (state,) = shared.split(slots)
    for first, part in shared.parts({"slot": state}, 10):
        own = part["slot"].numpy()
        np.testing.assert_array_equal(own, slots[first : first + 10 // shared.count])
    np.testing.assert_array_equal(shared.join(state), slots)


@pytest.mark.parametrize("norm, order", [("linf", np.inf), ("l2", 2), ("l1", 1)])
@pytest.mark.parametrize("dimension", [1, 192, 224 * 224 * 3])
def test_the_tolerance_is_twice_what_rounding_may_add_if_it_moves_every_pixel(
    norm, order, dimension
):
    most = np.linalg.norm(np.full(dimension, 2.0**-17), order)
    np.testing.assert_allclose(ball.tolerance(0.0, norm, dimension), 2 * most, rtol=1e-9)
    more = ball.tolerance(50.0, norm, dimension) - ball.tolerance(0.0, norm, dimension)
    np.testing.assert_allclose(more, 0.0 if norm == "linf" else 50e-5, atol=1e-12)


def test_the_noise_of_an_image_depends_on_its_position_alone():
    from sat_tf.evaluation.stream import seeds_of as derive

    whole = derive(5, np.arange(10), 3)
    np.testing.assert_array_equal(derive(5, np.array([7, 2]), 3), whole[[7, 2]])
    assert len({tuple(seed) for seed in whole}) == 10
    assert (derive(6, np.arange(10), 3) != whole).any()
    assert (derive(5, np.arange(10), 4) != whole).any()
    alone = noise.fold_in(tf.constant([5, 3]), 7).numpy()
    np.testing.assert_array_equal(whole[7], alone)
