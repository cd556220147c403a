"""A program around an exported model.c: it reads images, and prints classes and scores."""

import subprocess
from pathlib import Path

from torch import Tensor

PROGRAM = """#include <stdio.h>
#include "model.h"
int main(void)
{
    static uint8_t image[MODEL_HEIGHT * MODEL_WIDTH * MODEL_CHANNELS];
    NUMBER scores[MODEL_CLASSES];
    while (fread(image, 1, sizeof image, stdin) == sizeof image) {
        printf("%d", model_run(image, scores));
        for (int k = 0; k < MODEL_CLASSES; k++)
            printf(" %.10g", (double)scores[k]);
        printf("\\n");
    }
    return 0;
}
"""
#: Undefined behaviour, and memory that is not its own, end the program.
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover")


def answers(exported: Path, images: Tensor, number: str = "int32_t", flags: tuple[str, ...] = ()) -> list[list[float]]:
    """Class and scores of each image, by the program compiled without a warning; nothing is printed as an error."""
    main, program = exported.parent / "main.c", exported.parent / "program"
    main.write_text(PROGRAM.replace("NUMBER", number))
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", *flags]
    sources = [str(main), str(exported / "model.c"), "-lm", "-o", str(program)]
    subprocess.run(["cc", *strict, "-I", str(exported), *sources], check=True)
    done = subprocess.run([str(program)], input=images.numpy().tobytes(), capture_output=True, check=True)
    assert not done.stderr
    return [[float(word) for word in line.split()] for line in done.stdout.decode().splitlines()]
