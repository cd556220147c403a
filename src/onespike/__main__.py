"""`python -m onespike`, for launchers such as torchrun."""

from onespike.cli.main import main

if __name__ == "__main__":
    main()
