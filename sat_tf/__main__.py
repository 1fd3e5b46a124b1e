"""Lists the programs: `python -m sat_tf`."""

PROGRAMS = {
    "sat_tf.train": "trains a robust network, and tests it",
    "sat_tf.evaluate": "measures clean and adversarial accuracy, and writes a report",
    "sat_tf.convert": "turns a released TensorFlow 1 checkpoint into a run",
    "sat_tf.activations": "compares the activation functions, and draws them",
    "export.saved_model": "writes a run as a SavedModel for TensorFlow Serving",
    "export.client": "asks a server what pictures show, or compares it with a run",
    "benchmarks.train_step": "measures what an adversarial training step costs",
    "benchmarks.activations": "measures what each activation costs",
    "benchmarks.evaluate": "measures evaluation against plain loops and other libraries",
    "benchmarks.studies.smooth": "trains and evaluates rows of a table over several seeds",
}

if __name__ == "__main__":
    for name, purpose in PROGRAMS.items():
        print(f"python -m {name:<26}{purpose}")
    print("\nEach has --help. The first is where to begin: python -m sat_tf.train")
