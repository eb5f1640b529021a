"""Lists the experiments: python -m experiments."""

from experiments.common import catalog


def main() -> None:
    """Print every experiment with its question, and how to run one and all of them."""
    questions = catalog.questions()
    width = max(map(len, questions))
    for name, question in questions.items():
        print(f"{name:<{width}}  {question}")
    print("\nOne of them: python -m experiments.NAME (--help lists its flags)")
    print("All of them: python -m experiments.all --preset=quick")


if __name__ == "__main__":
    main()
