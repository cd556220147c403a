/* A program around an exported network: reads one image as bytes, row by row, from its standard input, and says its class.
   With --weights fp32 the scores are float. */
#include <stdio.h>

#include "model.h"

int main(void) {
    static const char *const names[] = MODEL_CLASS_NAMES;
    static uint8_t image[MODEL_HEIGHT * MODEL_WIDTH * MODEL_CHANNELS];
    int32_t scores[MODEL_CLASSES];
    if (fread(image, 1, sizeof image, stdin) != sizeof image || getchar() != EOF) {
        fprintf(stderr, "expected the bytes of one image, %d x %d x %d (height, width, channels): %lu, no PNG or JPEG\n",
                MODEL_HEIGHT, MODEL_WIDTH, MODEL_CHANNELS, (unsigned long)sizeof image);
        return 2;
    }
    puts(names[model_run(image, scores)]);
    return 0;
}
