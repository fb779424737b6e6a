"""One of everything that a package can bring to sj_cka."""


def register() -> None:
    """Adds to the tables; called once, when a name is looked for."""
    from sj_cka.attacks import ATTACKS, Attack
    from sj_cka.cka import MEASURES, Measure
    from sj_cka.claims import MEASUREMENTS, TESTS, ClaimTest, Measurement
    from sj_cka.data import AUGMENTATIONS, DATASETS
    from sj_cka.engine import ENGINES
    from sj_cka.figures import FIGURES, Figure
    from sj_cka.jobs import KINDS
    from sj_cka.models import MODELS, NEURONS
    from sj_cka.training import LEARNING_RULES
    from sj_cka_stripes import centroid, parts, within

    DATASETS["stripes"] = parts.stripes
    AUGMENTATIONS["dim"] = parts.dim
    MODELS["two_layers"] = parts.two_layers
    NEURONS["plain"] = parts.plain
    ATTACKS["darken"] = Attack(parts.darken, needs="answers")
    MEASURES["overlap"] = Measure(parts.overlap, "subspace overlap", adds=False)
    LEARNING_RULES["signs"] = parts.signs
    ENGINES["thread"] = parts.thread
    TESTS["within"] = ClaimTest(within.Within, "difference", within.judge)
    KINDS["centroid"] = centroid.KIND
    MEASUREMENTS["middle_step"] = Measurement("network", "centroids", "step in the middle of what is known", "centroid")
    FIGURES["centroid"] = Figure(centroid.section)
