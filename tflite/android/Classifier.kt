package gnsmall

import android.content.Context
import android.graphics.Bitmap
import com.google.mediapipe.framework.image.BitmapImageBuilder
import com.google.mediapipe.tasks.components.containers.Category
import com.google.mediapipe.tasks.core.BaseOptions
import com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifier
import com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifier.ImageClassifierOptions

/** Classifies bitmaps with assets/model.tflite. */
class Classifier(context: Context) : AutoCloseable {
    private val classifier = ImageClassifier.createFromOptions(
        context,
        ImageClassifierOptions.builder()
            .setBaseOptions(BaseOptions.builder().setModelAssetPath("model.tflite").build())
            .setMaxResults(1)
            .build(),
    )

    /** The best class and its probability; of the middle square, as in training. */
    fun classify(bitmap: Bitmap): Category {
        val edge = minOf(bitmap.width, bitmap.height)
        val (left, top) = (bitmap.width - edge) / 2 to (bitmap.height - edge) / 2
        val square = Bitmap.createBitmap(bitmap, left, top, edge, edge)
        val argb = square.copy(Bitmap.Config.ARGB_8888, false)
        val result = classifier.classify(BitmapImageBuilder(argb).build())
        return result.classificationResult().classifications().first().categories().first()
    }

    override fun close() = classifier.close()
}
