//! Conversations of the field's miners, one file a family, made of what is publicly known about them. Each mines a share
//! for real, and none knows `mining.set_extranonce`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod player;
mod support;

macro_rules! conversations {
    ($($promise:ident: $file:literal,)*) => {
        const PLAYED: &[&str] = &[$($file),*];

        $(
            #[tokio::test]
            async fn $promise() {
                player::play(include_str!(concat!("conversations/", $file))).await;
            }
        )*
    };
}

conversations! {
    antminers_mine: "antminer.txt",
    braiins_os_mines: "braiins-os.txt",
    whatsminers_mine: "whatsminer.txt",
    old_whatsminers_mine: "whatsminer-old.txt",
    avalons_mine: "avalon.txt",
    bitaxes_mine: "bitaxe.txt",
    nerdminers_mine: "nerdminer.txt",
    cgminer_mines: "cgminer.txt",
    cpuminer_mines: "cpuminer.txt",
    nicehash_finds_the_pool_compatible: "nicehash-verification.txt",
    nicehash_mines: "nicehash.txt",
}

#[test]
fn every_file_names_its_sources_and_is_played() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conversations");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(PLAYED.contains(&name), "{name} is not played");
        assert!(text.contains("\n# Sources: "), "{name} names no sources");
        assert!(
            name.ends_with("-verification.txt") || text.contains("\n= the pool takes the share"),
            "{name} mines nothing"
        );
        assert!(!text.contains("mining.set_extranonce"), "{name}");
        files += 1;
    }
    assert_eq!(files, PLAYED.len());
}
