/* Huffman decoding of the only scan of a sequential JPEG, half as long as the library's
 * own takes: most of the time of reading a photograph. One look at a table gives run,
 * length and value of a short code together, bits are fetched eight bytes at a time,
 * and what lies outside the wanted columns is not kept.
 *
 * Anything irregular (an early marker, an unknown code, a run past the block) leaves by
 * the library's error exit.
 */
#include <stdint.h>

enum { LOOK = 11, TABLE = 1 << LOOK, FEW = 5, COMPLETE = 1 << 7, ENDED = 100 };

/* Start of libjpeg's struct jpeg_entropy_decoder, the same since 1998; what is loaded
 * is tried before it is used. */
struct entropy_methods {
    void (*start_pass)(j_decompress_ptr);
    boolean (*decode_mcu)(j_decompress_ptr, JBLOCKROW *);
};

/* entry: value << 16 | symbol << 8 | COMPLETE | length, complete where the value's own
 * bits are within LOOK, too; then the symbol is the run, or ENDED. Of longer codes, by
 * length: all below `limit` in 16 bits, and their symbols.
 */
struct codes {
    int32_t entry[TABLE];
    uint32_t limit[17];
    int offset[17];
    const UINT8 *symbols;
};

struct reader {
    const unsigned char *at, *end;
    uint64_t bits; /* the next one is the highest */
    int have;      /* below zero: more were taken than the scan holds */
    int dc[MAX_COMPS_IN_SCAN];
    unsigned until_restart;
    int next_restart;
    JDIMENSION column, first,
        last; /* of MCUs; those outside first..last are not kept */
    struct codes *dc_codes[MAX_COMPS_IN_SCAN], *ac_codes[MAX_COMPS_IN_SCAN];
    struct codes codes[2 * MAX_COMPS_IN_SCAN];
};

static const unsigned char zigzag[DCTSIZE2] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};

static int extended(int value, int size) {
    return size && value < 1 << (size - 1) ? value - (1 << size) + 1 : value;
}

/* The library, too, lets every run without a value end a block, but that of sixteen
 * zeros. */
static int ends(int symbol) {
    return !(symbol & 15) && symbol != 0xF0;
}

/* Of a short code: what its entries hold, for each of the bits that may follow it. */
static int32_t entry_of(int symbol, int length, int bits, int is_dc) {
    int run = is_dc ? 0 : symbol >> 4, size = is_dc ? symbol : symbol & 15;
    if (!is_dc && ends(symbol)) return ENDED << 8 | COMPLETE | length;
    if (length + size > LOOK || size > 15) return (int32_t)(symbol << 8 | length);
    int value = bits >> (LOOK - length - size) & ((1 << size) - 1);
    return (int32_t)((uint32_t)extended(value, size) << 16 |
                     (uint32_t)(run << 8 | COMPLETE | (length + size)));
}

static int make_codes(struct codes *codes, const JHUFF_TBL *table, int is_dc) {
    if (!table) return 0;
    uint32_t code = 0;
    int k = 0;
    memset(codes->entry, 0, sizeof codes->entry);
    codes->symbols = table->huffval;
    for (int length = 1; length <= 16; length++) {
        codes->offset[length] = k - (int)code;
        for (int i = 0; i < table->bits[length]; i++, k++, code++) {
            if (k > 255 || code >> length) return 0;
            int free = LOOK - length;
            for (int rest = 0; free >= 0 && rest < 1 << free; rest++) {
                int bits = (int)(code << free) | rest;
                codes->entry[bits] = entry_of(table->huffval[k], length, bits, is_dc);
            }
        }
        codes->limit[length] = code << (16 - length);
        code <<= 1;
    }
    return 1;
}

static inline void fill(struct reader *from) {
    if (from->end - from->at >= 8) {
        uint64_t next;
        memcpy(&next, from->at, 8);
        uint64_t inverse = ~next; /* a byte of 0xFF is zero here */
        if (!((inverse - 0x0101010101010101u) & ~inverse & 0x8080808080808080u)) {
            from->bits |= __builtin_bswap64(next) >> from->have;
            from->at += (63 - from->have) >> 3;
            from->have |= 56;
            return;
        }
    }
    while (from->have < 56 && from->at < from->end) {
        uint64_t byte = *from->at;
        if (byte == 0xFF) {
            if (from->end - from->at < 2 || from->at[1] != 0)
                return; /* a marker: zeros follow */
            from->at++;
        }
        from->at++;
        from->bits |= byte << (56 - from->have);
        from->have += 8;
    }
}

static inline int take(struct reader *from, int count) {
    int value = count ? (int)(from->bits >> (64 - count)) : 0;
    from->bits <<= count;
    from->have -= count;
    return value;
}

/* A code that the table does not hold whole; its symbol, or -1. */
static int long_code(struct reader *from, const struct codes *codes, int32_t entry) {
    if (entry) {
        take(from, entry & 63);
        return entry >> 8 & 255;
    }
    uint32_t next = (uint32_t)(from->bits >> 48);
    for (int length = LOOK + 1; length <= 16; length++)
        if (next < codes->limit[length]) {
            take(from, length);
            return codes
                ->symbols[(codes->offset[length] + (int)(next >> (16 - length))) & 255];
        }
    return -1;
}

static inline int read_block(struct reader *from, const struct codes *dc_codes,
                             const struct codes *ac_codes, int *dc, JCOEF *block) {
    if (from->have < 32) fill(from);
    int32_t entry = dc_codes->entry[from->bits >> (64 - LOOK)];
    if (entry & COMPLETE) {
        take(from, entry & 63);
        *dc =
            (int)((unsigned)*dc + (unsigned)(entry >> 16)); /* wraps in hostile files */
    } else {
        int size = long_code(from, dc_codes, entry);
        if (size < 0 || size > 15) return 0;
        *dc = (int)((unsigned)*dc + (unsigned)extended(take(from, size), size));
    }
    if (block) block[0] = (JCOEF)*dc;
    int k = 1;
    while (k < DCTSIZE2) {
        fill(from); /* enough for FEW short codes: to ask before each would cost more,
                       by the branches guessed wrong */
        uint64_t bits = from->bits;
        int used = 0, turn = 0, led = 0;
        for (; turn < FEW; turn++) {
            entry = ac_codes->entry[bits >> (64 - LOOK)];
            if (!(entry & COMPLETE)) break;
            bits <<= entry & 63;
            used += entry & 63;
            k += entry >> 8 & 127;
            if ((led = k >= DCTSIZE2)) break;
            if (block) block[zigzag[k]] = (JCOEF)(entry >> 16);
            if (++k == DCTSIZE2) break;
        }
        from->bits = bits;
        from->have -= used;
        if (led) return k >= ENDED; /* else the last run led past the block */
        if (k == DCTSIZE2) break;
        if (turn == FEW) continue;
        fill(from);
        int symbol = long_code(from, ac_codes, entry);
        if (symbol < 0) return 0;
        if (ends(symbol)) return 1;
        k += symbol >> 4;
        if (k >= DCTSIZE2) return 0;
        int value = extended(take(from, symbol & 15), symbol & 15);
        if (block) block[zigzag[k]] = (JCOEF)value;
        k++;
    }
    return 1;
}

static int restart(struct reader *from, j_decompress_ptr jpeg) {
    if (from->have < 0 || from->end - from->at < 2) return 0;
    /* whole bytes that were fetched ahead and are not of this interval cannot be: a
     * marker stops the fetching */
    if (from->have >= 8 || from->at[0] != 0xFF ||
        from->at[1] != JPEG_RST0 + from->next_restart)
        return 0;
    from->at += 2;
    from->bits = 0;
    from->have = 0;
    from->next_restart = (from->next_restart + 1) & 7;
    from->until_restart = jpeg->restart_interval;
    memset(from->dc, 0, sizeof from->dc);
    return 1;
}

static boolean read_mcu(j_decompress_ptr jpeg, JBLOCKROW *blocks) {
    struct reader *from = jpeg->client_data;
    if (jpeg->restart_interval) {
        if (from->until_restart == 0 && !restart(from, jpeg))
            jpeg->err->error_exit((j_common_ptr)jpeg);
        from->until_restart--;
    }
    int kept = blocks && from->column >= from->first && from->column <= from->last;
    if (++from->column == jpeg->MCUs_per_row) from->column = 0;
    for (int i = 0; i < jpeg->blocks_in_MCU; i++) {
        int part = jpeg->MCU_membership[i];
        if (!read_block(from, from->dc_codes[part], from->ac_codes[part],
                        &from->dc[part], kept ? *blocks[i] : NULL))
            jpeg->err->error_exit((j_common_ptr)jpeg);
    }
    if (from->have < 0) jpeg->err->error_exit((j_common_ptr)jpeg);
    return TRUE;
}

/* Takes the place of the library's decoder, before the first row is read. */
static int take_over(struct jpeg_decompress_struct *jpeg, struct reader *from,
                     JDIMENSION first, JDIMENSION last) {
    from->at = jpeg->src->next_input_byte;
    from->end = from->at + jpeg->src->bytes_in_buffer;
    from->bits = 0;
    from->have = 0;
    from->until_restart = jpeg->restart_interval;
    from->next_restart = 0;
    from->column = 0;
    from->first = first;
    from->last = last;
    memset(from->dc, 0, sizeof from->dc);
    for (int part = 0; part < jpeg->comps_in_scan; part++) {
        jpeg_component_info *info = jpeg->cur_comp_info[part];
        from->dc_codes[part] = &from->codes[2 * part];
        from->ac_codes[part] = &from->codes[2 * part + 1];
        for (int other = 0; other < part; other++) { /* as chroma's two do */
            if (jpeg->cur_comp_info[other]->dc_tbl_no == info->dc_tbl_no)
                from->dc_codes[part] = from->dc_codes[other];
            if (jpeg->cur_comp_info[other]->ac_tbl_no == info->ac_tbl_no)
                from->ac_codes[part] = from->ac_codes[other];
        }
        if (from->dc_codes[part] == &from->codes[2 * part] &&
            !make_codes(from->dc_codes[part], jpeg->dc_huff_tbl_ptrs[info->dc_tbl_no],
                        1))
            return 0;
        if (from->ac_codes[part] == &from->codes[2 * part + 1] &&
            !make_codes(from->ac_codes[part], jpeg->ac_huff_tbl_ptrs[info->ac_tbl_no],
                        0))
            return 0;
    }
    jpeg->client_data = from;
    ((struct entropy_methods *)jpeg->entropy)->decode_mcu = read_mcu;
    return 1;
}
