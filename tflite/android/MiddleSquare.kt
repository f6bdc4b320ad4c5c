package gnsmall

import android.graphics.Bitmap

/**
 * The middle square in the network's size, as in training: after the first, small step each halves
 * it, so that all pixels count. One large step would take a few of them and leave out the others.
 * The copy has pixels that can be read: ImageDecoder's bitmaps are Config.HARDWARE.
 */
internal fun middleSquare(bitmap: Bitmap, side: Int): Bitmap {
    val full = minOf(bitmap.width, bitmap.height)
    val (left, top) = (bitmap.width - full) / 2 to (bitmap.height - full) / 2
    var edge = side
    while (2 * edge <= full) edge *= 2
    var square = Bitmap.createBitmap(bitmap, left, top, full, full)
        .copy(Bitmap.Config.ARGB_8888, false)
    square = Bitmap.createScaledBitmap(square, edge, edge, true)
    while (edge > side) {
        edge /= 2
        square = Bitmap.createScaledBitmap(square, edge, edge, true)
    }
    return square
}
