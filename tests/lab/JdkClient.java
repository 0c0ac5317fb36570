import java.net.Authenticator;
import java.net.HttpURLConnection;
import java.net.PasswordAuthentication;
import java.net.URI;
import java.nio.charset.StandardCharsets;

/** The JDK's own HTTP client: JdkClient URL USER < PASSWORD; prints status and page. */
public final class JdkClient {
    public static void main(String[] arguments) throws Exception {
        String password = new String(System.in.readAllBytes(), StandardCharsets.UTF_8);
        Authenticator.setDefault(new Authenticator() {
            @Override
            protected PasswordAuthentication getPasswordAuthentication() {
                return new PasswordAuthentication(arguments[1], password.toCharArray());
            }
        });
        URI uri = new URI(arguments[0]);
        HttpURLConnection web = (HttpURLConnection) uri.toURL().openConnection();
        int status = web.getResponseCode();
        byte[] page = status < 400 ? web.getInputStream().readAllBytes() : new byte[0];
        System.out.println(status + " " + new String(page, StandardCharsets.UTF_8));
    }
}
