package gnsmall

import android.content.Context
import android.graphics.Bitmap
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel

/** Classifies bitmaps with assets/model.tflite, of float32 or float16 weights. */
class CompiledClassifier(context: Context, private val side: Int = 32) : AutoCloseable {
    private val model = CompiledModel.create(
        context.assets,
        "model.tflite",
        CompiledModel.Options(Accelerator.CPU),
    )
    private val inputs = model.createInputBuffers()
    private val outputs = model.createOutputBuffers()

    /** A probability for each class; `side` is that of the file's images. */
    fun classify(bitmap: Bitmap): FloatArray {
        val small = Bitmap.createScaledBitmap(bitmap, side, side, true)
        val pixels = IntArray(side * side)
        small.getPixels(pixels, 0, side, 0, 0, side, side)
        val values = FloatArray(3 * pixels.size) { index ->
            val shift = 16 - 8 * (index % 3) // red, green, blue
            ((pixels[index / 3] shr shift) and 255).toFloat()
        }
        inputs[0].writeFloat(values)
        model.run(inputs, outputs)
        return outputs[0].readFloat()
    }

    override fun close() = model.close()
}
