package gnsmall

import android.content.Context
import android.graphics.Bitmap
import com.google.mediapipe.framework.image.BitmapImageBuilder
import com.google.mediapipe.tasks.components.containers.Category
import com.google.mediapipe.tasks.core.BaseOptions
import com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifier
import com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifier.ImageClassifierOptions

/** Classifies bitmaps with assets/model.tflite; `side` is that of the file. */
class Classifier(context: Context, private val side: Int = 32) : AutoCloseable {
    private val classifier = ImageClassifier.createFromOptions(
        context,
        ImageClassifierOptions.builder()
            .setBaseOptions(BaseOptions.builder().setModelAssetPath("model.tflite").build())
            .setMaxResults(1)
            .build(),
    )

    /** The best class and its probability; MediaPipe has nothing left to scale. */
    fun classify(bitmap: Bitmap): Category {
        val small = middleSquare(bitmap, side)
        val result = classifier.classify(BitmapImageBuilder(small).build())
        return result.classificationResult().classifications().first().categories().first()
    }

    override fun close() = classifier.close()
}
