/* spiking-vgg-xs: a strictly spiking network, in whole numbers. Written by onespike 0.2.0.

   Flash   250,477 bytes of constants, beside the code
   RAM     2,048 bytes of static memory, and 592 bytes of arrays on the stack,
           beside the caller's image (1,024 bytes) and scores (40 bytes)
   Work    at most 16,516,352 additions of an 8-bit weight for an image, each done only where there is a
           spike; at most 163,850 multiplications of whole and fixed-point numbers

   C99, without a heap or a library; not reentrant. Class scores times 2^-MODEL_SCORE_BITS are the logits. */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#define MODEL_HEIGHT 32
#define MODEL_WIDTH 32
#define MODEL_CHANNELS 1
#define MODEL_CLASSES 10
#define MODEL_CLASS_NAMES {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}
#define MODEL_SCORE_BITS 25

#ifdef __cplusplus
extern "C" {
#endif

/* Classify an image, MODEL_HEIGHT x MODEL_WIDTH pixels of MODEL_CHANNELS bytes each, row by row, not normalised: gives
   the number of the class, and in `scores` the scores of all MODEL_CLASSES. */
int model_run(const uint8_t *image, int32_t *scores);

#ifdef __cplusplus
}
#endif

#endif
