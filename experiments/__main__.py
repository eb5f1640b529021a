"""Lists the experiments: python -m experiments."""

from experiments.common import catalog
from vanishing._text import say


def main() -> None:
    """Print every experiment with its question, and how to run one and all of them."""
    questions = catalog.questions()
    width = max(map(len, questions))
    for name, question in questions.items():
        say(f"{name:<{width}}  {question}")
    say("\nOne of them: python -m experiments.NAME (--help lists its flags)")
    say("All of them: python -m experiments.all --preset=quick")


if __name__ == "__main__":
    main()
