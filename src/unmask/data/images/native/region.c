/* Decode a region of a JPEG to the same pixels as decoding the whole image would give.
 *
 * The rest of the image is skipped: rows above the region are entropy-decoded but not
 * transformed, rows below are not read, and columns beside it are not transformed.
 * Chroma is upsampled from its neighbours, so a margin is decoded and cut off again.
 */
#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#ifndef LIBJPEG_TURBO_VERSION_NUMBER
#error "libjpeg-turbo is needed: jpeg_crop_scanline and jpeg_skip_scanlines"
#endif

enum { OK = 0, DOUBTFUL = 1, MARGIN = 2, ROWS = 8 };

/* libjpeg sees only the first member; the rest is where an error jumps to. */
struct error_trap {
    struct jpeg_error_mgr manager;
    jmp_buf out;
};

static void jump_out(j_common_ptr info) {
    longjmp(((struct error_trap *)info->err)->out, 1);
}

/* Warnings (level < 0) mean damaged data: the reference decoder must decide what
 * becomes of it. */
static void jump_out_if_warned(j_common_ptr info, int level) {
    if (level < 0) jump_out(info);
}

static void print_nothing(j_common_ptr info) {
    (void)info;
}

/* Whether all versions of libjpeg-turbo decode the file alike: that leaves out CMYK,
 * stored RGB, unusual chroma sampling, 12 bits and arithmetic coding. */
static int is_common(struct jpeg_decompress_struct *jpeg) {
    if (jpeg->data_precision != 8 || jpeg->arith_code) return 0;
    if (jpeg->num_components == 1) return jpeg->jpeg_color_space == JCS_GRAYSCALE;
    if (jpeg->num_components != 3 || jpeg->jpeg_color_space != JCS_YCbCr) return 0;
    jpeg_component_info *part = jpeg->comp_info;
    if (part[1].h_samp_factor != 1 || part[1].v_samp_factor != 1) return 0;
    if (part[2].h_samp_factor != 1 || part[2].v_samp_factor != 1) return 0;
    int across = part[0].h_samp_factor, down = part[0].v_samp_factor;
    return (across == 1 && down == 1) || (across == 2 && down <= 2);
}

/* Whether every coefficient of a progressive file has all its bits: otherwise the
 * library smooths over what is missing. */
static int is_complete(struct jpeg_decompress_struct *jpeg) {
    if (!jpeg->progressive_mode || !jpeg->coef_bits) return !jpeg->progressive_mode;
    for (int part = 0; part < jpeg->num_components; part++)
        for (int k = 0; k < DCTSIZE2; k++)
            if (jpeg->coef_bits[part][k] != 0) return 0;
    return 1;
}

static int is_restart(int marker) {
    return marker >= JPEG_RST0 && marker <= JPEG_RST0 + 7;
}

/* Whether the rest of the only scan holds nothing but data, restart markers and the
 * end. Anything else is for another decoder to judge. */
static int ends_well(struct jpeg_decompress_struct *jpeg) {
    const unsigned char *at = jpeg->src->next_input_byte;
    size_t left = jpeg->src->bytes_in_buffer;
    /* bits are fetched ahead, up to a marker, which then counts as read */
    if (jpeg->unread_marker == JPEG_EOI) return 1;
    if (jpeg->unread_marker && !is_restart(jpeg->unread_marker)) return 0;
    while (left >= 2) {
        const unsigned char *mark = memchr(at, 0xFF, left - 1);
        if (!mark) return 0;
        left -= (size_t)(mark - at) + 1;
        at = mark + 1;
        if (*at == JPEG_EOI) return 1;
        /* a zero after 0xFF stands for a data byte of 0xFF */
        if (*at != 0 && !is_restart(*at)) return 0;
    }
    return 0;
}

/* box: top, left, height, width, in pixels of the image at 1/denominator.
 * out: height x width x channels bytes.
 *
 * Returns OK, or DOUBTFUL if another decoder should be asked; then `out` is undefined.
 */
int unmask_region(const unsigned char *content, size_t size, const int *image_size,
                  const int *box, int channels, int denominator, unsigned char *out) {
    struct jpeg_decompress_struct jpeg;
    struct error_trap trap;
    /* volatile: these are read after the jump */
    unsigned char *volatile row = NULL;
    volatile int outcome = DOUBTFUL;

    memset(&jpeg, 0, sizeof jpeg);
    jpeg.err = jpeg_std_error(&trap.manager);
    trap.manager.error_exit = jump_out;
    trap.manager.emit_message = jump_out_if_warned;
    trap.manager.output_message = print_nothing;
    if (setjmp(trap.out)) goto done;
    jpeg_create_decompress(&jpeg);
    jpeg_mem_src(&jpeg, (unsigned char *)content, size);
    jpeg_read_header(&jpeg, TRUE);
    if ((int)jpeg.image_height != image_size[0]) goto done;
    if ((int)jpeg.image_width != image_size[1]) goto done;
    if (!is_common(&jpeg)) goto done;
    if (channels == 1 && jpeg.num_components != 1) goto done;

    jpeg.out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg.scale_num = 1;
    jpeg.scale_denom = (unsigned)denominator;
    jpeg_start_decompress(&jpeg);
    /* of a file with several scans, all has been read by now */
    int several_scans = jpeg_has_multiple_scans(&jpeg);
    if (!is_complete(&jpeg)) goto done;

    int top = box[0], left = box[1], height = box[2], width = box[3];
    if (top < 0 || left < 0 || height < 1 || width < 1) goto done;
    if (height > (int)jpeg.output_height - top) goto done;
    if (width > (int)jpeg.output_width - left) goto done;

    /* the neighbours from which subsampled chroma is upsampled */
    int subsampled = jpeg.max_h_samp_factor * jpeg.max_v_samp_factor > 1;
    int margin = subsampled ? MARGIN : 0;
    JDIMENSION first = left > margin ? (JDIMENSION)(left - margin) : 0;
    JDIMENSION last = (JDIMENSION)(left + width + margin);
    if (last > jpeg.output_width) last = jpeg.output_width;
    JDIMENSION across = last - first;
    /* moves `first` to the left, to where a block begins */
    if (across < jpeg.output_width) jpeg_crop_scanline(&jpeg, &first, &across);

    size_t stride = (size_t)jpeg.output_width * (size_t)channels;
    size_t row_bytes = (size_t)width * (size_t)channels;
    size_t skipped_bytes = ((size_t)left - first) * (size_t)channels;
    JSAMPROW rows[ROWS];
    row = malloc(stride * ROWS);
    if (!row) goto done;
    for (int i = 0; i < ROWS; i++) rows[i] = row + (size_t)i * stride;
    if (top > margin) jpeg_skip_scanlines(&jpeg, (JDIMENSION)(top - margin));
    while ((int)jpeg.output_scanline < top + height) {
        int y = (int)jpeg.output_scanline, remaining = top + height - y;
        JDIMENSION wanted = (JDIMENSION)(remaining < ROWS ? remaining : ROWS);
        int read = (int)jpeg_read_scanlines(&jpeg, rows, wanted);
        if (read < 1) goto done;
        for (int i = 0; i < read; i++) {
            if (y + i < top) continue;
            unsigned char *target = out + (size_t)(y + i - top) * row_bytes;
            memcpy(target, rows[i] + skipped_bytes, row_bytes);
        }
    }
    if (several_scans || ends_well(&jpeg)) outcome = OK;
done:
    jpeg_destroy_decompress(&jpeg);
    free(row);
    return outcome;
}
