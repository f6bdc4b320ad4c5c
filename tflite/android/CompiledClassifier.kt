package gnsmall

import android.content.Context
import android.graphics.Bitmap
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel

/** Classifies bitmaps with assets/model.tflite, of float32 or float16 weights. */
class CompiledClassifier(
    context: Context,
    private val side: Int = 32,
    private val channels: Int = 3,
) : AutoCloseable {
    private val model = CompiledModel.create(
        context.assets,
        "model.tflite",
        CompiledModel.Options(Accelerator.CPU),
    )
    private val inputs = model.createInputBuffers()
    private val outputs = model.createOutputBuffers()

    /** A probability for each class; `side` and `channels` (1: grey) are those of the file. */
    fun classify(bitmap: Bitmap): FloatArray {
        val small = middleSquare(bitmap, side)
        val pixels = IntArray(side * side)
        small.getPixels(pixels, 0, side, 0, 0, side, side)
        val values = FloatArray(channels * pixels.size) { index ->
            val pixel = pixels[index / channels]
            val alpha = pixel ushr 24 // over black, as in training; getPixels divides by it
            fun colour(number: Int): Int { // red, green, blue
                val value = (pixel shr (16 - 8 * number)) and 255
                return (value * alpha + 127) / 255
            }
            val grey = (299 * colour(0) + 587 * colour(1) + 114 * colour(2) + 500) / 1000
            (if (channels == 1) grey else colour(index % 3)).toFloat()
        }
        inputs[0].writeFloat(values)
        model.run(inputs, outputs)
        return outputs[0].readFloat()
    }

    override fun close() = model.close()
}
