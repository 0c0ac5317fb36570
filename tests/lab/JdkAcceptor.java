import java.io.DataInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import org.ietf.jgss.GSSContext;
import org.ietf.jgss.GSSCredential;
import org.ietf.jgss.GSSException;
import org.ietf.jgss.GSSManager;
import sun.security.jgss.krb5.internal.TlsChannelBindingImpl;

/**
 * The JDK's own Kerberos and SPNEGO as the acceptor: JdkAcceptor PORT [BINDINGS].
 *
 * <p>Frames as in gss_acceptor.py. Clients come one after the other, and one line tells
 * what became of each: {@code accepted USER MECHANISM} or {@code refused REASON}.
 */
public final class JdkAcceptor {
    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[0]);
        byte[] bindings = arguments.length < 2
                ? null : arguments[1].getBytes(StandardCharsets.UTF_8);
        InetAddress loopback = InetAddress.getByName("127.0.0.1");
        try (ServerSocket listener = new ServerSocket(port, 5, loopback)) {
            while (true) {
                try (Socket client = listener.accept()) {
                    serve(client, bindings);
                }
            }
        }
    }

    private static void serve(Socket client, byte[] bindings) throws IOException {
        DataInputStream in = new DataInputStream(client.getInputStream());
        OutputStream out = client.getOutputStream();
        try {
            GSSContext context = GSSManager.getInstance().createContext((GSSCredential) null);
            if (bindings != null) {
                // The class that LDAP uses: its bindings hold no addresses, as RFC 5929's.
                context.setChannelBinding(new TlsChannelBindingImpl(bindings));
            }
            byte[] token = receive(in);
            if (token == null) {
                return;             // somebody only looked whether we listen
            }
            while (true) {
                byte[] answer = context.acceptSecContext(token, 0, token.length);
                if (answer != null) {
                    send(out, answer);
                }
                if (context.isEstablished()) {
                    break;
                }
                token = receive(in);
                if (token == null) {
                    throw new EOFException("the client left in the middle");
                }
            }
            System.out.println("accepted " + context.getSrcName() + " " + context.getMech());
        } catch (GSSException | IOException error) {
            Throwable cause = error.getCause() == null ? error : error.getCause();
            System.out.println("refused " + cause);
        }
    }

    /** Returns the next frame, or null when the client has gone. */
    private static byte[] receive(DataInputStream in) throws IOException {
        byte[] head = in.readNBytes(4);
        if (head.length < 4) {
            return null;
        }
        return in.readNBytes(ByteBuffer.wrap(head).order(ByteOrder.LITTLE_ENDIAN).getInt());
    }

    private static void send(OutputStream out, byte[] message) throws IOException {
        out.write(ByteBuffer.allocate(4 + message.length).order(ByteOrder.LITTLE_ENDIAN)
                .putInt(message.length).put(message).array());
        out.flush();
    }
}
