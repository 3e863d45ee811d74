// Workload for java: collections, strings, regular expressions, compression, cryptography, exceptions, collected garbage;
// a second thread sorts. Runs until it is ended.
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.zip.CRC32;
import java.util.zip.Deflater;

public class Mixed {
	private static final Pattern WORD = Pattern.compile("\\b([a-z]+)(\\d+)\\b");
	private static volatile long sink;

	private static long text(Random random) {
		StringBuilder all = new StringBuilder();
		for (int i = 0; i < 1000; i++)
			all.append(" word").append(random.nextInt(1000));
		return WORD.matcher(all).replaceAll(m -> m.group(2) + m.group(1).toUpperCase()).length();
	}

	private static long collect(Random random) {
		Map<String, List<Integer>> groups = new HashMap<>();
		for (int i = 0; i < 5000; i++)
			groups.computeIfAbsent("key" + random.nextInt(100), k -> new ArrayList<>()).add(i);
		return groups.entrySet().stream().sorted(Map.Entry.comparingByKey())
			.map(e -> e.getKey() + e.getValue().stream().mapToInt(Integer::intValue).sum())
			.collect(Collectors.joining(",")).length();
	}

	private static long bytes(Random random) throws Exception {
		byte[] in = new byte[20000], out = new byte[30000];
		random.nextBytes(in);
		for (int i = 0; i < in.length; i++)
			in[i] &= 0x3f;
		Deflater deflater = new Deflater(6);
		deflater.setInput(in);
		deflater.finish();
		int length = deflater.deflate(out);
		deflater.end();
		CRC32 crc = new CRC32();
		crc.update(out, 0, length);
		return crc.getValue() + MessageDigest.getInstance("SHA-256").digest(in)[0];
	}

	private static long errors(Random random, int depth) {
		if (depth == 0)
			throw new IllegalStateException(String.valueOf(random.nextInt()));
		try {
			return errors(random, depth - 1) + 1;
		} catch (IllegalStateException e) {
			if (depth % 8 == 0)
				throw new IllegalStateException(e.getMessage() + depth, e);
			throw e;
		}
	}

	private static void sort() {
		Random random = new Random(1);
		while (true) {
			String[] names = new String[5000];
			for (int i = 0; i < names.length; i++)
				names[i] = Long.toString(random.nextLong(), 36);
			Arrays.sort(names, (a, b) -> a.substring(1).compareTo(b.substring(1)));
			sink += String.join("", names).getBytes(StandardCharsets.UTF_8).length;
		}
	}

	public static void main(String[] arguments) throws Exception {
		Random random = new Random(4711);
		Thread sorter = new Thread(Mixed::sort, "sorter");
		sorter.setDaemon(true);
		sorter.start();
		System.out.println("started");
		System.out.flush();
		while (true) {
			sink += text(random) + collect(random) + bytes(random);
			try {
				sink += errors(random, 40);
			} catch (IllegalStateException e) {
				sink += e.getMessage().length();
			}
		}
	}
}
